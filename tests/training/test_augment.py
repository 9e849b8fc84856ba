import numpy as np
import pytest
import torch

from reloc.training.augment import Augmentation, augment


def test_the_map_of_pixels_is_the_one_that_the_picture_was_moved_by() -> None:
    """A picture whose grey is its column keeps it, wherever its pixels went; the same for rows."""
    columns = np.tile(np.arange(40, 200, dtype=np.uint8), (120, 1))
    rows = np.tile(np.arange(40, 160, dtype=np.uint8)[:, None], (1, 160))
    augmentation = Augmentation(jitter=0.0)
    for seed in range(8):
        for axis, picture in enumerate((columns, rows)):
            image, original_from_augmented = augment(
                picture, augmentation, np.random.default_rng(seed)
            )
            y, x = torch.meshgrid(*[torch.arange(side) for side in image.shape], indexing="ij")
            pixels = torch.stack([x, y], -1).reshape(-1, 2).double() + 0.5
            original = pixels @ original_from_augmented[:, :2].T + original_from_augmented[:, 2]
            inside = ((original > 6) & (original < torch.tensor([154, 114]))).all(1)
            expected = original[inside, axis] - 0.5 + 40
            deviation = image.flatten()[inside].double() - expected
            assert float(deviation.abs().max()) < 1
            assert float(deviation.mean().abs()) < 0.1


def test_the_middle_stays_in_the_middle() -> None:
    image, original_from_augmented = augment(
        np.zeros((90, 130), np.uint8), Augmentation(), np.random.default_rng(1)
    )
    middle = torch.tensor([image.shape[1] / 2, image.shape[0] / 2], dtype=torch.float64)
    moved = original_from_augmented[:, :2] @ middle + original_from_augmented[:, 2]
    assert moved.tolist() == pytest.approx([65, 45])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="scales from"):
        Augmentation(min_scale=2.0)
