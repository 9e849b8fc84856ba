from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import reloc
from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.retrieval.thumbnail import METHOD, ThumbnailConfig
from reloc.nn.descriptors.thumbnail import describe_thumbnail
from reloc.scenes.images import read_image
from reloc.scenes.options import LoadOptions
from reloc.scenes.scene import Query, View


def picture(seed: int, height: int = 240, width: int = 320) -> Tensor:
    """Blobs of all sizes, as photos have them."""
    generator = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), dtype=np.float32)
    for cells in (3, 6, 12, 48):
        noise = generator.normal(size=(cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    image = 128 + 40 * image / image.std()
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def described(image: Tensor, size: tuple[int, int] = (40, 30)) -> Tensor:
    descriptor = describe_thumbnail(image, size)
    assert descriptor is not None
    return descriptor


def resized(image: Tensor, width: int, height: int) -> Tensor:
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    smaller = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(smaller).permute(2, 0, 1)


def view_of(image: Tensor, index: int) -> View:
    height, width = image.shape[-2:]
    tangent = torch.tensor([0.1, 0.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64) * (index + 1)
    camera = Camera.simple_pinhole(300, width, height)
    return View(f"view {index}", camera, Rigid3d.exp(tangent), lambda: image)


def query_of(image: Tensor) -> Query:
    return Query("query", image, Camera.guess(image.shape[2], image.shape[1]))


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (16, 16)])
def test_descriptor_has_mean_0_and_norm_1(size: tuple[int, int]) -> None:
    descriptor = described(picture(0), size)
    assert descriptor.shape == (size[0] * size[1],)
    assert descriptor.dtype == torch.float32
    assert float(descriptor.mean()) == pytest.approx(0, abs=1e-6)
    assert float(descriptor.norm()) == pytest.approx(1, abs=1e-5)


def test_brightness_contrast_and_size_do_not_matter_but_the_picture_does() -> None:
    image = picture(0)
    descriptor = described(image)
    dimmed = (image.float() * 0.4 + 20).round().to(torch.uint8)
    assert float(descriptor @ described(dimmed)) > 0.999
    assert float(descriptor @ described(resized(image, 160, 120))) > 0.999
    assert float(descriptor @ described(resized(image, 100, 75))) > 0.995
    assert float(descriptor @ described(picture(1))) < 0.8
    assert float(descriptor @ described(image.flip(2))) < 0.8


def test_is_the_grey_picture_shrunk_and_blurred() -> None:
    image = picture(0)
    gray = cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray.astype(np.float32), (40, 30), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 2.5)
    small -= small.mean()
    expected = torch.from_numpy(small / np.linalg.norm(small)).flatten()
    assert float(described(image) @ expected) > 0.9999


def test_of_another_aspect_the_middle_counts() -> None:
    image = picture(0, height=240, width=320)
    wide = torch.cat([picture(1, 240, 60), image, picture(2, 240, 60)], dim=2)
    tall = torch.cat([picture(1, 60, 320), image, picture(2, 60, 320)], dim=1)
    assert torch.equal(described(wide), described(image))
    assert torch.equal(described(tall), described(image))


def test_memory_layout_does_not_matter() -> None:
    image = picture(0)
    assert not image.is_contiguous()
    assert torch.equal(described(image.contiguous()), described(image))


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 240, 320, dtype=torch.uint8),
        torch.full((3, 240, 320), 255, dtype=torch.uint8),
        torch.tensor([7, 90, 200], dtype=torch.uint8)[:, None, None].expand(3, 48, 64),
        torch.full((3, 1, 1), 99, dtype=torch.uint8),
        # One grey level of noise, as a covered lens has it.
        torch.randint(10, 12, (3, 240, 320), dtype=torch.uint8),
    ],
    ids=["black", "white", "one colour", "one pixel", "lens cap"],
)
def test_an_image_without_contrast_has_no_descriptor_and_is_declined(image: Tensor) -> None:
    assert describe_thumbnail(image) is None
    views = [view_of(picture(seed), seed) for seed in range(2)]
    config = ThumbnailConfig()
    localizer = METHOD.localizer(METHOD.build_map(views, config, Run()), config, Run())
    (answer,) = localizer.localize([query_of(image)])
    assert answer.cam_from_world is None
    assert answer.reference is None


def test_answers_with_the_pose_of_the_view_it_knows_again() -> None:
    images = [picture(seed) for seed in range(5)]
    views = [view_of(image, index) for index, image in enumerate(images)]
    config = ThumbnailConfig()
    localizer = METHOD.localizer(METHOD.build_map(views, config, Run()), config, Run())
    seen_again = [query_of(resized(image, 200, 150)) for image in images]
    for answer, view in zip(localizer.localize(seen_again), views, strict=True):
        assert answer.reference == view.name
        assert answer.cam_from_world is not None
        assert torch.equal(answer.cam_from_world.matrix, view.cam_from_world.matrix)
        assert answer.confidence is None


def test_thumbnails_have_the_aspect_of_the_mapping_images() -> None:
    for width, height in ((320, 240), (240, 320), (600, 100)):
        views = [view_of(picture(seed, height, width), seed) for seed in range(3)]
        tensors = METHOD.build_map(views, ThumbnailConfig(num_pixels=1200), Run())
        thumbnail_width, thumbnail_height = tensors["size"].tolist()
        assert thumbnail_width / thumbnail_height == pytest.approx(width / height, rel=0.05)
        assert tensors["descriptors"].shape[1] == pytest.approx(1200, rel=0.05)


def test_black_mapping_images_are_left_out_and_nothing_but_black_is_refused() -> None:
    black = torch.zeros(3, 240, 320, dtype=torch.uint8)
    views = [view_of(black, 0), view_of(picture(1), 1), view_of(black, 2)]
    tensors = METHOD.build_map(views, ThumbnailConfig(), Run())
    assert len(tensors["descriptors"]) == len(tensors["translations"]) == 1
    with pytest.raises(InputError, match=r"none of the 2 mapping images .*view 0"):
        METHOD.build_map([views[0], views[2]], ThumbnailConfig(), Run())


@pytest.mark.parametrize("setting", [{"num_pixels": 15}, {"blur_px": -1.0}, {"blur_px": 1e9}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        ThumbnailConfig(**setting)  # pyright: ignore[reportArgumentType]


@pytest.mark.data
def test_on_redkitchen_it_is_as_near_as_the_nearest_view(shared_data: Path) -> None:
    """Every third frame of the mapping video, every fifth query."""
    whole = reloc.load_scene(shared_data / "7scenes" / "redkitchen")
    views, asked = whole.mapping[::3], whole.queries[::5]
    tensors = METHOD.build_map(views, ThumbnailConfig(), Run())
    localizer = METHOD.localizer(tensors, ThumbnailConfig(), Run())
    answers = localizer.localize([view.query() for view in asked])
    errors, smallest_errors = [], []
    for answer, view in zip(answers, asked, strict=True):
        assert answer.cam_from_world is not None
        center = answer.cam_from_world.inverse().translation
        errors.append(float((center - view.center_world).norm()))
        smallest_errors.append(
            min(float((other.center_world - view.center_world).norm()) for other in views)
        )
    assert np.median(errors) < 1.5 * np.median(smallest_errors)


@pytest.mark.data
def test_on_south_building_a_photo_answers_without_intrinsics(shared_data: Path) -> None:
    scene = reloc.load_scene(shared_data / "south_building", LoadOptions())
    map_ = reloc.build_map("thumbnail", scene)
    view = scene.mapping[40]
    photo = query_of(resized(view.read_image(), 400, 300))
    estimate = reloc.localize(map_, [photo])["query"]
    assert estimate.reference == view.name
    assert map_.megabytes < 0.3


@pytest.mark.data
def test_on_real_photos_the_middle_of_a_wide_crop_is_found_again(shared_data: Path) -> None:
    """A 16:9 crop of every tenth frame finds its frame, or one within a second of it."""
    folder = shared_data / "7scenes" / "redkitchen" / "seq-01"
    paths = sorted(folder.glob("*.color.jpg"))[:200:10]
    images = [read_image(path) for path in paths]
    views = [view_of(image, index) for index, image in enumerate(images)]
    tensors = METHOD.build_map(views, ThumbnailConfig(), Run())
    localizer = METHOD.localizer(tensors, ThumbnailConfig(), Run())
    wide = [query_of(image[:, 60:420]) for image in images]
    answers = localizer.localize(wide)
    off_by = [
        abs(int((answer.reference or "view 99").split()[1]) - index)
        for index, answer in enumerate(answers)
    ]
    assert float(np.median(off_by)) <= 2
