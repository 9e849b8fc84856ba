"""What holds of every kind of image descriptor, and of what they are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.nn.descriptors import KINDS, fit_descriptor, get_kind, open_descriptor
from reloc.nn.descriptors.bow import BowConfig
from reloc.nn.descriptors.densevlad import DenseVladConfig, dense_sift
from reloc.nn.descriptors.gem import GemConfig
from reloc.nn.descriptors.gist import GistConfig
from reloc.nn.descriptors.netvlad import NetVladConfig
from reloc.nn.descriptors.whitening import fit_whitening
from reloc.scenes.scene import View

SMALL = {
    "densevlad": DenseVladConfig(max_side_px=120, bins_px=(4, 6), num_words=16, num_dimensions=16),
    "netvlad": NetVladConfig(short_side_px=96, num_words=8, num_dimensions=16),
    "gem": GemConfig(short_side_px=96),
    "bow": BowConfig(max_keypoints=200, num_words=128),
    "gist": GistConfig(size_px=64),
}


@pytest.fixture(scope="module")
def views(small_room) -> list[View]:
    return list(small_room.mapping[:26])


def test_the_small_configs_are_of_all_kinds() -> None:
    assert set(SMALL) == set(KINDS)
    assert all(isinstance(SMALL[name], get_kind(name).config) for name in KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_vectors_have_norm_1_and_survive_the_map(name, views) -> None:
    views = [*views[:-1], replace(views[-1], image_reader=_black)]
    descriptor, vectors_ND = fit_descriptor(name, views, Run(), SMALL[name])
    assert vectors_ND.dtype == torch.float32
    norms_N = vectors_ND.norm(dim=1)
    torch.testing.assert_close(norms_N[:-1], torch.ones(25))
    assert norms_N[-1] == 0
    state = descriptor.state()
    again = open_descriptor(name, {key: value.clone() for key, value in state.items()}, SMALL[name])
    for index in (0, 7, 25):
        image = views[index].read_image()
        here, there = descriptor.describe(image), again.describe(image)
        assert torch.equal(here, there)
        torch.testing.assert_close(here, vectors_ND[index], rtol=0, atol=1e-4)
        known = descriptor.describe_known(image)
        assert float(known.norm()) <= 1 + 1e-5
        torch.testing.assert_close(known, here * known.norm(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_smaller_and_darker_photo_is_most_like_its_own_view(name, views) -> None:
    descriptor, vectors_ND = fit_descriptor(name, views[::2], Run(), SMALL[name])
    found = 0
    for index, view in enumerate(views[::2]):
        image = view.read_image()[None].float() * 0.8 + 10
        smaller = torch.nn.functional.interpolate(image, scale_factor=0.9, mode="area")
        vector_D = descriptor.describe(smaller[0].to(torch.uint8))
        found += int(int((vectors_ND @ vector_D).argmax()) == index)
    assert found >= 11


@pytest.mark.parametrize("name", KINDS)
def test_images_that_show_nothing_are_refused(name, views) -> None:
    black = [replace(view, image_reader=_black) for view in views[:3]]
    with pytest.raises(InputError, match=r"(contrast|texture)"):
        fit_descriptor(name, black, Run(), SMALL[name])


def test_whitened_vectors_are_uncorrelated_and_zeros_stay_zeros() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 40, generator=generator) * torch.tensor([9.0, 5, 3, 2, 1, 1])[:, None]
    raw_NL = torch.randn(200, 6, generator=generator) @ mixing + 3
    whitening = fit_whitening(raw_NL, 5)
    unscaled = (raw_NL - whitening.mean_L.float()) @ whitening.projection_LD.float()
    correlation = torch.corrcoef(unscaled.T)
    torch.testing.assert_close(correlation, torch.eye(5), rtol=0, atol=0.02)
    spread = unscaled.std(dim=0)
    # Halfway from what the spreads were to all alike.
    directions = whitening.projection_LD.float() / whitening.scale_D
    former = ((raw_NL - whitening.mean_L.float()) @ directions).std(dim=0)
    torch.testing.assert_close(spread / spread[0], (former / former[0]).sqrt(), rtol=0.05, atol=0)
    torch.testing.assert_close(directions.T @ directions, torch.eye(5), rtol=0, atol=0.01)
    assert not whitening(torch.zeros(2, 40)).any()
    assert len(fit_whitening(raw_NL[:10], 5).mean_L) == 0


def test_what_mapping_images_do_not_span_is_not_known() -> None:
    generator = torch.Generator().manual_seed(0)
    raw_NL = torch.zeros(100, 20)
    raw_NL[:, :4] = torch.randn(100, 4, generator=generator)
    whitening = fit_whitening(raw_NL, 4)
    inside, outside = raw_NL[0], torch.zeros(20).index_fill(0, torch.tensor([15]), 50.0)
    assert float(whitening.known(inside).norm()) > 0.98
    assert float(whitening.known(outside).norm()) < 0.1
    both = whitening.known(inside + outside)
    share = float(inside.norm() / (inside + outside).norm())
    assert float(both.norm()) == pytest.approx(share, rel=0.05)
    torch.testing.assert_close(
        torch.nn.functional.normalize(both, dim=0), whitening(inside + outside)
    )


def test_dense_sift_follows_the_picture() -> None:
    """Brightness and contrast play no part; a mirrored picture has mirrored features."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 20, 20, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (120, 121), mode="bicubic")[0]
    wide = (wide.clamp(0, 1) * 200).to(torch.uint8)
    image = wide[:, :, 1:]
    config = DenseVladConfig(max_side_px=120, bins_px=(4,))
    features_ND = dense_sift(image, config)
    torch.testing.assert_close(features_ND.norm(dim=1), torch.ones(len(features_ND)))
    brighter_ND = dense_sift(image // 2 + 90, config)
    assert len(brighter_ND) == len(features_ND)
    assert float((brighter_ND * features_ND).sum(1).median()) > 0.97
    # Features lie half a pixel off the middle of the picture: so does the mirror.
    mirrored_ND = dense_sift(wide[:, :, :120].flip(2), config)
    side = round(len(features_ND) ** 0.5)
    assert side**2 == len(features_ND) == len(mirrored_ND)
    # Rows, columns; and of each feature: its rows, its columns, and directions counted from +x.
    parts = mirrored_ND.reshape(side, side, 4, 4, 8)
    back = parts.flip((1, 3, 4)).roll(5, 4)
    there = features_ND.reshape_as(back)
    # At the border, what is beyond it is made up.
    torch.testing.assert_close(back[:, 2:-2], there[:, 2:-2], rtol=0, atol=1e-3)
    assert float((parts - there).abs().max()) > 0.1


def _black() -> Tensor:
    return torch.zeros(3, 180, 240, dtype=torch.uint8)
