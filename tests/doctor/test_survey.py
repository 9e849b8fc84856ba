from __future__ import annotations

import math
from dataclasses import replace

import cv2
import pytest
import torch
from torch import Tensor

from posed_views import views_of
from reloc.contract import Run
from reloc.doctor.survey import blurred, duplicates, look_at_images, survey
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import Scene, View


def picture(seed: int, blur_px: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, 48, 64), generator=generator).to(torch.uint8)
    if not blur_px:
        return image
    soft = cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (0, 0), blur_px)
    return torch.from_numpy(soft).permute(2, 0, 1)


def row_of_views(images: list[Tensor], prefix: str = "m") -> list[View]:
    """A camera that moves one to the right from view to view."""
    translations = torch.zeros(len(images), 3, dtype=torch.float64)
    translations[:, 0] = -torch.arange(len(images))
    rotations = torch.eye(3, dtype=torch.float64).expand(len(images), 3, 3)
    camera = Camera.simple_pinhole(32.0, 64, 48)
    return [
        replace(view, camera=camera, image_reader=lambda image=image: image)
        for view, image in zip(
            views_of(Rigid3d(rotations, translations), prefix=prefix), images, strict=True
        )
    ]


def looked_at(mapping: list[View], queries: list[View] | None = None):
    return look_at_images(Scene("row", mapping, queries or [], "given"), Run())


def test_counts_sizes_and_motion():
    mapping = row_of_views([picture(seed) for seed in range(4)])
    mapping[3] = replace(mapping[3], image_reader=lambda: torch.zeros(3, 10, 20, dtype=torch.uint8))
    scene = Scene("row", mapping, row_of_views([picture(9)], "q"), "given")
    found = survey(scene, look_at_images(scene, Run()))
    assert (found.num_mapping, found.num_queries, found.num_read) == (4, 1, 5)
    sizes = [(size.width, size.height, size.count) for size in found.resolutions]
    assert sizes == [(64, 48, 4), (20, 10, 1)]
    assert found.focal_px.low == found.focal_px.high == 32.0
    assert found.field_of_view_deg.median == pytest.approx(90.0)
    assert found.trajectory.extent == (3.0, 0.0, 0.0)
    # The query stands at the first mapping view, in the same sequence, after the last.
    assert found.trajectory.longest_step == 3.0
    assert found.trajectory.longest_step_between == ("m3.jpg", "q0.jpg")
    assert found.trajectory.path == 6.0
    assert found.trajectory.step == 1.0


def test_a_scene_without_views():
    found = survey(Scene("none", [], [], "given"), [])
    assert found.trajectory is found.focal_px is found.sharpness is None


def test_a_blurred_image_is_named():
    images = [picture(seed) for seed in range(6)]
    images[2] = picture(2, blur_px=2.0)
    assert blurred(looked_at(row_of_views(images)), 0.25) == ["m2.jpg"]


def test_sharpness_is_compared_within_a_sequence():
    """A sequence of soft pictures is not blurred, it is of soft things."""
    sharp = row_of_views([picture(seed) for seed in range(6)])
    soft = row_of_views([picture(seed, blur_px=2.0) for seed in range(6)], "s")
    soft = [replace(view, sequence="other") for view in soft]
    assert blurred(looked_at([*sharp, *soft]), 0.25) == []


def test_equal_pixels_are_found_across_the_split():
    mapping = row_of_views([picture(0), picture(1), picture(0)])
    queries = row_of_views([picture(1), picture(5)], "q")
    pairs = duplicates(looked_at(mapping, queries))
    assert [(first.view.name, later.view.name) for first, later in pairs] == [
        ("m0.jpg", "m2.jpg"),
        ("m1.jpg", "q0.jpg"),
    ]
    assert [later.is_query for _, later in pairs] == [False, True]


def test_the_same_bytes_in_another_shape_are_another_image():
    flat = picture(0)
    images = [flat, flat.reshape(3, 64, 48)]
    assert duplicates(looked_at(row_of_views(images))) == []


def test_an_image_that_cannot_be_read_is_kept_with_its_reason():
    def refuse():
        raise InputError("image m0.jpg is cut short: replace or remove it")

    mapping = row_of_views([picture(0), picture(1)])
    mapping[0] = replace(mapping[0], image_reader=refuse)
    found = looked_at(mapping)
    assert found[0].problem.startswith("image m0.jpg is cut short")
    assert found[0].size is None
    assert math.isnan(found[0].sharpness)
    assert blurred(found, 0.25) == duplicates(found) == []
