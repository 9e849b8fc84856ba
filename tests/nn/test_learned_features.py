"""Learned local features: their networks, their weights, their keypoints."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from reloc.estimation.matching import match_mutual
from reloc.input_error import InputError
from reloc.nn import learned_features
from reloc.nn.features.alike import Alike, sample_descriptors
from reloc.nn.features.r2d2 import R2d2
from reloc.nn.features.superpoint import SuperPoint
from reloc.nn.features.superpoint import detect as detect_superpoint
from reloc.nn.local_features import as_vectors, extract_features, mean_descriptors
from reloc.nn.weights import PUBLISHED, WEIGHTS_VARIABLE, load_published

LEARNED = ["alike", "r2d2", "superpoint"]


@pytest.fixture
def weights_folder(shared_data, monkeypatch):
    folder = shared_data / "weights"
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    learned_features._detector.cache_clear()
    yield folder
    learned_features._detector.cache_clear()


def test_layers_have_the_names_of_the_published_weights() -> None:
    """As they are listed in the files; a change of a name would no longer load them."""
    with torch.device("meta"):
        r2d2, alike, superpoint = R2d2(), Alike(), SuperPoint()
    shapes = {name: tuple(value.shape) for name, value in r2d2.state_dict().items()}
    assert shapes["ops.0.weight"] == (32, 3, 3, 3)
    assert shapes["ops.6.weight"] == (64, 32, 3, 3)
    assert shapes["ops.18.weight"] == shapes["ops.22.weight"] == (128, 128, 2, 2)
    assert shapes["clf.weight"] == (2, 128, 1, 1)
    assert shapes["sal.weight"] == (1, 128, 1, 1)
    assert sum(value.numel() for value in r2d2.state_dict().values()) == 485_803
    assert len(alike.state_dict()) == 59
    assert sum(value.numel() for value in alike.parameters()) == 83_216 - _batch_norm_buffers(alike)
    assert {"convPb.weight", "convDb.bias", "conv4b.weight"} <= set(superpoint.state_dict())


def _batch_norm_buffers(network: torch.nn.Module) -> int:
    return sum(value.numel() for value in network.buffers())


@pytest.mark.parametrize("kind", LEARNED)
def test_missing_weights_are_one_line_that_says_where_they_are(kind, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    learned_features._detector.cache_clear()
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    with pytest.raises(InputError, match=re.escape(PUBLISHED[kind].address)) as caught:
        extract_features(image, kind, 10)
    assert WEIGHTS_VARIABLE in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="cannot be read"):
        load_published(kind)


def test_another_file_is_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    (tmp_path / PUBLISHED["alike"].file).write_bytes(b"something else")
    with pytest.raises(InputError, match="not the file"):
        load_published("alike")
    monkeypatch.setitem(PUBLISHED, "alike", replace(PUBLISHED["alike"], sha256=None))
    with pytest.raises(InputError, match="holds no weights"):
        load_published("alike")


def test_codes_of_cells_are_read_at_their_centres() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.nn.functional.normalize(torch.randn(1, 5, 4, 6, generator=generator), dim=1)
    centres = torch.tensor([[4.0, 4.0], [8 * 5 + 4.0, 8 * 3 + 4.0], [8 * 2 + 4.0, 4.0]])
    sampled = sample_descriptors(cells, centres, 8)
    torch.testing.assert_close(sampled[0], cells[0, :, 0, 0])
    torch.testing.assert_close(sampled[1], cells[0, :, 3, 5])
    torch.testing.assert_close(sampled[2], cells[0, :, 0, 2])


def test_superpoint_gives_keypoints_in_the_image_with_any_weights() -> None:
    torch.manual_seed(0)
    network = SuperPoint().eval()
    with torch.no_grad():
        keypoints, descriptors, scores = detect_superpoint(network, torch.rand(1, 48, 64), 50)
    assert 0 < len(keypoints) <= 50
    assert bool(((keypoints > 0) & (keypoints < torch.tensor([64, 48]))).all())
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(len(keypoints)))
    assert scores.shape == (len(keypoints),)
    assert bool(((scores > 0) & (scores < 1) & (scores <= scores[0])).all())


def test_means_of_learned_descriptors_are_between_them() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(6, 64), dim=1)
    stored = (256 * vectors).round().to(torch.int8)
    torch.testing.assert_close(as_vectors(stored), vectors, rtol=0, atol=1 / 256)
    mean = as_vectors(mean_descriptors(stored, torch.tensor([0, 0, 1, 1, 1, 1]), 2))
    expected = torch.nn.functional.normalize(vectors[:2].sum(0), dim=0)
    torch.testing.assert_close(mean[0], expected, rtol=0, atol=0.02)


def test_our_encoders_corners_are_found_again(small_room) -> None:
    assert _share_found_again("encoder", small_room.mapping[3].read_image()) > 0.6


@pytest.mark.data
@pytest.mark.parametrize("kind", ["alike", "r2d2"])
def test_published_weights_find_keypoints_again(kind, weights_folder, small_room) -> None:
    del weights_folder
    assert _share_found_again(kind, small_room.mapping[3].read_image()) > 0.6


def _share_found_again(kind, image: Tensor) -> float:
    """Of the keypoints of a darker cut of an image that match: those that match rightly."""
    left, top = 13, 6
    cut = (image[:, top:, left:].float() * 0.8).to(torch.uint8)
    whole, part = extract_features(image, kind, 300), extract_features(cut, kind, 300)
    assert min(len(whole), len(part)) >= 40
    matches = match_mutual(part.descriptors_ND, whole.descriptors_ND, 0.95)
    assert len(matches) >= 0.3 * len(part)
    moved = part.keypoints_N2[matches[:, 0]] + torch.tensor([left, top])
    error_px = (moved - whole.keypoints_N2[matches[:, 1]]).norm(dim=1)
    return float((error_px < 2).float().mean())
