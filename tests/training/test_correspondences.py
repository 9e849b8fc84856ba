"""Made pairs: corresponding points show the same spot of the same picture."""

import numpy as np
import pytest
import torch

from reloc.training import correspondences
from reloc.training.correspondences import CollageConfig, Correspondences, collage_pair, disturb
from reloc.training.pictures import procedural_picture


def _smooth_picture(seed: int) -> np.ndarray:
    y, x = np.mgrid[:300, :400]
    phase = np.random.default_rng(seed).uniform(0.5, 1.5, 4)
    waves = np.sin(phase[0] * x / 31) + np.cos(phase[1] * y / 27) + np.sin(phase[2] * (x + y) / 43)
    return np.rint(127 + 40 * waves).astype(np.uint8)


def _make(seed: int) -> Correspondences:
    pictures = [_smooth_picture(number) for number in range(6)]
    return collage_pair(pictures, np.random.default_rng(seed), CollageConfig())


def test_corresponding_points_have_the_same_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correspondences, "disturb", lambda image, _rng: image)
    differences, chance = [], []
    for seed in range(20):
        pair = _make(seed)
        greys = []
        for images, points in (
            (pair.images_a_B1HW, pair.points_a_N2),
            (pair.images_b_B1HW, pair.points_b_N2),
        ):
            grid = (points / 112 - 1)[None, None]
            greys.append(
                torch.nn.functional.grid_sample(images.float(), grid, align_corners=False).flatten()
            )
        differences.append((greys[0] - greys[1]).abs())
        chance.append((greys[0] - greys[1].flip(0)).abs())
    assert float(torch.cat(differences).quantile(0.95)) < 4
    assert float(torch.cat(chance).median()) > 15


def test_baselines_are_wide() -> None:
    """Scale changes beyond 1.5 and points that leave the other image are common."""
    counts = [len(_make(seed).pair_N) for seed in range(30)]
    assert np.mean(counts) > 60
    assert min(counts) < 100


def test_the_same_seed_makes_the_same_pair_and_joined_pairs_keep_their_own_points() -> None:
    first, again, other = _make(1), _make(1), _make(2)
    assert torch.equal(first.images_b_B1HW, again.images_b_B1HW)
    joined = Correspondences.join([first, other])
    assert joined.images_a_B1HW.shape == (2, 1, 224, 224)
    assert torch.equal(joined.points_b_N2[joined.pair_N == 1], other.points_b_N2)


def test_procedural_pictures_have_structure_and_differ() -> None:
    pictures = [procedural_picture(np.random.default_rng(seed)) for seed in range(6)]
    assert all(picture.std() > 5 for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
    assert disturb(pictures[0], np.random.default_rng(0)).dtype == np.uint8
