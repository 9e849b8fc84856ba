from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from reloc.estimation.matching import match_mutual
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import turned_from_cam
from reloc.input_error import InputError
from reloc.nn.local_features import extract_features
from reloc.scenes.scene import Scene, View
from reloc.scenes.synthetic import KINDS, Lighting, Room, Sensor, room, synthetic_scene
from reloc.scenes.synthetic.develop import TONES
from reloc.scenes.synthetic.style import Style
from reloc.scenes.synthetic.surfaces import Pen

SHARP = Sensor(blur=0, motion=0, noise=0, vignetting=0)
PINHOLE = Camera.simple_pinhole(262.5, 320, 240)
DISTORTED = Camera.of("OPENCV", 320, 240, [250, 255, 163, 117, -0.21, 0.06, 0.002, -0.003])
FISHEYE = Camera.of("OPENCV_FISHEYE", 320, 240, [110, 110, 160, 120, 0.02, -0.01, 0, 0])


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Enough views that neighbours overlap, at the size of the demo."""
    return synthetic_scene(seed=5, num_mapping=60, num_queries=12)


@pytest.fixture(scope="module")
def furnished() -> Room:
    return Room(3)


def pose_in(room_: Room, yaw_deg: float) -> Rigid3d:
    """A camera where the room has most space, 1.4 m up, that looks along `yaw_deg`, level."""
    row, column = np.unravel_index(room_.clearance_m.argmax(), room_.clearance_m.shape)
    center = torch.tensor(
        [
            (float(column) + 0.5) * room.CELL_M - room_.size[0] / 2,
            (float(row) + 0.5) * room.CELL_M - room_.size[1] / 2,
            1.4,
        ],
        dtype=torch.float64,
    )
    yaw = torch.deg2rad(torch.tensor(yaw_deg, dtype=torch.float64))
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    right = torch.stack([yaw.sin(), -yaw.cos(), zero])
    forward = torch.stack([yaw.cos(), yaw.sin(), zero])
    rotation = torch.stack([right, torch.stack([zero, zero, -one]), forward])
    return Rigid3d(rotation, -rotation @ center)


def pixel_centers(camera: Camera) -> Tensor:
    x, y = torch.arange(camera.width) + 0.5, torch.arange(camera.height) + 0.5
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return grid.reshape(-1, 2).double()


def points_cam(camera: Camera, depth_HW: Tensor) -> Tensor:
    """(H * W, 3): what the depth says that the pixels' centres see."""
    plane_N2 = camera.cam_from_img(pixel_centers(camera))
    ones_N1 = torch.ones(len(plane_N2), 1, dtype=torch.float64)
    return torch.cat([plane_N2, ones_N1], dim=1) * depth_HW.reshape(-1, 1).double()


def depth_on_planes(depth_HW: Tensor, pixels_N2: Tensor) -> Tensor:
    """(N,) depth between pixel centres; NaN where the four around lie on no common plane.

    The inverse depth of a plane is linear over a pinhole image: its interpolation is exact.
    """
    height, width = depth_HW.shape
    inverse_HW = 1 / depth_HW.double()
    place_N2 = pixels_N2 - 0.5
    corner_N2 = place_N2.floor()
    inside_N = (corner_N2 >= 0).all(1) & (corner_N2 < torch.tensor([width - 1, height - 1])).all(1)
    column_N, row_N = torch.where(inside_N[:, None], corner_N2, 0.0).long().T
    a, b = inverse_HW[row_N, column_N], inverse_HW[row_N, column_N + 1]
    c, d = inverse_HW[row_N + 1, column_N], inverse_HW[row_N + 1, column_N + 1]
    flat_N = ((a + d - b - c).abs() < 1e-5 * a) & ((a - d).abs() < 0.02 * a)
    s_N, t_N = (place_N2 - corner_N2).T
    between_N = 1 / ((a * (1 - s_N) + b * s_N) * (1 - t_N) + (c * (1 - s_N) + d * s_N) * t_N)
    return torch.where(inside_N & flat_N, between_N, torch.nan)


def away_from_edges(depth_HW: Tensor) -> Tensor:
    """(H * W,): pixels with the eight around them on one plane; nothing there is thin."""
    padded = torch.nn.functional.pad(1 / depth_HW[None], (1, 1, 1, 1), mode="replicate")
    around = padded.unfold(1, 3, 1).unfold(2, 3, 1).reshape(-1, 9)
    middle_N1 = around[:, 4:5]
    return ((around + around.flip(1) - 2 * middle_N1).abs() < 3e-4 * middle_N1).all(dim=1)


def check_same_surface(
    seen: tuple[Camera, Rigid3d, Tensor], again: tuple[Camera, Rigid3d, Tensor]
) -> None:
    """What the first sees, the second (a pinhole) sees at the same place, or it is hidden."""
    (camera_a, a_from_world, depth_a), (camera_b, b_from_world, depth_b) = seen, again
    moved_N3 = (b_from_world @ a_from_world.inverse()) @ points_cam(camera_a, depth_a)
    found_N = depth_on_planes(depth_b, camera_b.img_from_cam(moved_N3))
    ratio_N = (found_N / moved_N3[:, 2])[found_N.isfinite() & away_from_edges(depth_a)]
    assert len(ratio_N) > 5000
    # Nearer: something stands in between. Never further: that would be a hole.
    assert float((ratio_N > 1 + 1e-3).double().mean()) < 1e-4
    visible_N = ratio_N[ratio_N > 1 - 1e-2]
    assert len(visible_N) > 0.6 * len(ratio_N)
    assert float((visible_N - 1).abs().median()) < 1e-6
    assert float((visible_N - 1).abs().quantile(0.97)) < 1e-5


def test_kinds_are_where_such_things_are(furnished: Room) -> None:
    pixels = torch.stack(
        torch.meshgrid(torch.arange(320) + 0.5, torch.arange(240) + 0.5, indexing="xy"), dim=-1
    )
    heights: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for turn in range(8):
        # To all sides, by turns up and down.
        tilt = torch.tensor([(-1) ** turn * 0.6, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
        pose = Rigid3d.exp(tilt) @ pose_in(furnished, 45 * turn)
        depth = furnished.depth(PINHOLE, pose).double()
        rays = torch.nn.functional.pad(PINHOLE.cam_from_img(pixels.double()), (0, 1), value=1.0)
        world = pose.inverse() @ (rays * depth[..., None]).reshape(-1, 3)
        kinds = furnished.kinds(PINHOLE, pose).flatten()
        for number, kind in enumerate(KINDS):
            heights[kind].append(world[kinds == number, 2])
    of = {kind: torch.cat(parts) for kind, parts in heights.items()}
    assert sum(len(part) > 0 for part in of.values()) >= 6
    assert len(of["nothing"]) == 0
    assert len(of["floor"]) > 500
    # A rug lies on the floor.
    assert float(of["floor"].abs().max()) < 0.01
    assert float((of["ceiling"] - furnished.size[2]).abs().max()) < 0.17
    for kind in ("wall", "storage", "on the wall"):
        assert float(of[kind].max() - of[kind].min()) > 0.3


def test_depth_of_two_views_is_of_one_surface(furnished: Room) -> None:
    first = pose_in(furnished, 30)
    aside = torch.tensor([0.05, -0.12, 0.02, 0.25, -0.1, 0.2], dtype=torch.float64)
    second = Rigid3d.exp(aside) @ first
    check_same_surface(
        (PINHOLE, first, furnished.depth(PINHOLE, first)),
        (PINHOLE, second, furnished.depth(PINHOLE, second)),
    )


@pytest.mark.parametrize("camera", [DISTORTED, FISHEYE], ids=["opencv", "fisheye"])
def test_lenses_see_what_a_pinhole_sees(furnished: Room, camera: Camera) -> None:
    pose = pose_in(furnished, 75)
    check_same_surface(
        (camera, pose, furnished.depth(camera, pose)),
        (PINHOLE, pose, furnished.depth(PINHOLE, pose)),
    )


def test_a_turned_camera_takes_a_turned_picture(furnished: Room) -> None:
    camera, pose = Camera.of("PINHOLE", 320, 240, [260, 264, 150.5, 125.0]), pose_in(furnished, 200)
    image, depth = furnished.render(camera, pose, sensor=SHARP)
    portrait, portrait_depth = furnished.render(
        camera.rotated(1), turned_from_cam(1) @ pose, sensor=SHARP
    )
    assert portrait.shape == (3, 320, 240)
    # Rays that graze an edge may fall on either side of it.
    assert float(((portrait_depth - depth.rot90(-1)).abs() < 1e-4).double().mean()) > 0.999
    difference = (portrait.int() - image.rot90(-1, (1, 2)).int()).abs()
    assert float((difference <= 3).double().mean()) > 0.99


def test_pixels_are_where_the_camera_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A black rectangle before a white wall: its corners are known, here and in the picture."""
    low, high = torch.tensor([-0.437, 2.0, 0.911]), torch.tensor([0.533, 2.0, 1.723])

    def one_rectangle(pen: Pen, style: Style, size: tuple[float, float, float]) -> None:
        world = pen.at(size[0] / 2, size[1] / 2)
        white = replace(style.white, glow=1.0, wear=0.0, gloss=0.0)
        world.rect((9, 4, 9), (-18, 0, 0), (0, 0, -18), white, thin=True)
        world.rect((9, -4, 9), (-18, 0, 0), (0, 0, -18), white, thin=True)
        (x0, y, z0), (x1, _, z1) = low.tolist(), high.tolist()
        black = replace(white, tint=(0.0, 0.0, 0.0), glow=0.0)
        world.rect((x0, y, z1), (x1 - x0, 0, 0), (0, 0, z0 - z1), black, thin=True)

    monkeypatch.setattr(room, "furnish", one_rectangle)
    camera = Camera.of("PINHOLE", 200, 160, [161.3, 158.1, 97.3, 84.9])
    # Level, and along y: the rectangle's sides are parallel to the picture's.
    rotation = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    cam_from_world = Rigid3d(
        rotation, -rotation @ torch.tensor([0.1, 0.2, 1.3], dtype=torch.float64)
    )
    image, depth = Room(0).render(camera, cam_from_world, sensor=SHARP)
    corners_22 = camera.img_from_cam(cam_from_world @ torch.stack([low, high]).double())
    (left, bottom), (right, top) = corners_22.tolist()
    x, y = torch.arange(200) + 0.5, torch.arange(160) + 0.5
    inside = ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))[None]
    assert inside.sum() > 1000
    assert torch.equal(depth < 2.5, inside)
    torch.testing.assert_close(depth[inside], torch.full_like(depth[inside], 1.8))
    # On an edge, the light is the part of the pixel that is not covered, to a quarter of it.
    dark = 1 - _linear(image[1]) / float(_linear(image[1, :, 0]).median())
    dark[dark < 0.08] = 0  # The wall's own texture.
    assert float(dark[80].sum()) == pytest.approx(right - left, abs=0.26)
    assert float((dark[80] * x).sum() / dark[80].sum()) == pytest.approx(
        (left + right) / 2, abs=0.15
    )
    assert float((dark[:, 97] * y).sum() / dark[:, 97].sum()) == pytest.approx(
        (top + bottom) / 2, abs=0.15
    )


def _linear(values: Tensor) -> Tensor:
    """Light, by the inverse of the renderer's own tone curve."""
    levels = torch.from_numpy(np.searchsorted(TONES, values.numpy()).astype(np.float64))
    return (levels / (len(TONES) - 1) * 2) ** 2


def test_pictures_do_not_depend_on_order_or_company() -> None:
    forward = synthetic_scene(1, num_mapping=4, num_queries=2, width=96, height=72)
    backward = synthetic_scene(1, num_mapping=4, num_queries=2, width=96, height=72)
    views = [*forward.mapping, *forward.queries]
    again = [*backward.mapping, *backward.queries][::-1]
    for view, same in zip(views, reversed([(v, v.read_image()) for v in again]), strict=True):
        assert view.name == same[0].name
        assert torch.equal(view.cam_from_world.matrix, same[0].cam_from_world.matrix)
        assert torch.equal(view.read_image(), same[1])
    assert len({view.read_image().numpy().tobytes() for view in views}) == len(views)


def test_a_caller_cannot_spoil_what_is_kept(small_room: Scene) -> None:
    view = small_room.mapping[0]
    image, depth = view.read_image(), view.read_depth()
    assert depth is not None
    before = image.clone(), depth.clone()
    image.zero_()
    depth.zero_()
    assert torch.equal(view.read_image(), before[0])
    assert torch.equal(view.read_depth(), before[1])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("seed", [0, 8])
def test_walks_stay_in_free_space_and_differ(seed: int) -> None:
    walked, scene = Room(seed), synthetic_scene(seed, num_mapping=60, num_queries=30)
    mapping_N3, queries_M3 = centers(scene.mapping), centers(scene.queries)
    for path_N3 in (mapping_N3, queries_M3):
        assert walked.clearance_at(path_N3[:, :2].numpy()).min() > 0.15
        directions = torch.nn.functional.normalize(
            torch.randn(200, 3, dtype=torch.float64), dim=1
        ).numpy()
        for center in path_N3.numpy():
            _, distance_N, _ = walked.look_around(center, directions)
            assert distance_N.min() > 0.1
            assert np.isfinite(distance_N).all()
        # Nothing stands between one picture and the next.
        for here, there in pairwise(path_N3):
            step = (there - here)[None]
            length = float(step.norm())
            _, distance_1, _ = walked.look_around(here.numpy(), (step / length).numpy())
            assert distance_1[0] > length
    steps_m = mapping_N3.diff(dim=0).norm(dim=1)
    assert float(steps_m.max()) < 0.3
    assert float(mapping_N3[:, :2].std(dim=0).norm()) > 0.5
    nearest_m = torch.cdist(queries_M3, mapping_N3).amin(dim=1)
    assert float(nearest_m.min()) > 0.05
    assert float(nearest_m.median()) < 1.2
    assert abs(float(mapping_N3[:, 2].mean() - queries_M3[:, 2].mean())) > 0.05


def centers(views: Sequence[View]) -> Tensor:
    return torch.stack([view.center_world for view in views])


def test_there_is_much_to_match_and_it_agrees_with_the_poses(scene: Scene) -> None:
    views = scene.mapping[::7]
    neighbours = scene.mapping[1::7]
    features = [extract_features(view.read_image(), "sift", 4000) for view in views]
    assert np.median([len(found) for found in features]) >= 1200
    assert np.mean([len(found) >= 800 for found in features]) >= 0.7
    medians_px, agreeing = [], []
    for view, found, neighbour in zip(views, features, neighbours, strict=True):
        other = extract_features(neighbour.read_image(), "sift", 4000)
        pairs_K2 = match_mutual(found.descriptors_ND, other.descriptors_ND)
        error_px = _transfer_error_px(
            view, found.keypoints_N2[pairs_K2[:, 0]], neighbour, other.keypoints_N2[pairs_K2[:, 1]]
        )
        medians_px.append(float(error_px.median()))
        agreeing.append(int((error_px < 2).sum()))
    assert np.median(medians_px) < 0.5
    assert np.median(agreeing) > 150


def _transfer_error_px(view: View, pixels_K2: Tensor, other: View, found_K2: Tensor) -> Tensor:
    """Distance (K,) of pixels found in `other` from where pose and depth of `view` put them."""
    depth_HW = view.read_depth()
    assert depth_HW is not None
    column_K, row_K = pixels_K2.long().T
    depth_K1 = depth_HW[row_K, column_K][:, None].double()
    plane_K2 = view.camera.cam_from_img(pixels_K2.double())
    points_K3 = torch.cat([plane_K2, torch.ones_like(depth_K1)], dim=1) * depth_K1
    moved_K3 = (other.cam_from_world @ view.cam_from_world.inverse()) @ points_K3
    return (other.camera.img_from_cam(moved_K3) - found_K2.double()).norm(dim=1)


def test_light_changes_the_picture_and_not_the_place(furnished: Room) -> None:
    pose = pose_in(furnished, 120)
    day, depth = furnished.render(PINHOLE, pose, sensor=SHARP)
    evening, same_depth = furnished.render(PINHOLE, pose, Lighting(daylight=0, warmth=0.5), SHARP)
    assert torch.equal(depth, same_depth)
    assert float((day.float() - evening.float()).abs().mean()) > 5
    brighter, _ = furnished.render(PINHOLE, pose, Lighting(exposure=1), SHARP)
    assert float(brighter.float().mean()) > float(day.float().mean()) + 15


def test_photos_hang_on_the_walls(furnished: Room) -> None:
    magenta = torch.zeros(3, 40, 60, dtype=torch.uint8)
    magenta[0], magenta[2] = 255, 255

    def share(shown: Room) -> float:
        images = [
            shown.render(PINHOLE, pose_in(shown, yaw_deg), sensor=SHARP)[0]
            for yaw_deg in range(0, 360, 60)
        ]
        red, green, blue = torch.stack(images, dim=1).int()
        return float(((red > green + 90) & (blue > green + 90)).double().mean())

    assert share(furnished) < 0.002
    assert share(Room(furnished.seed, photos=[magenta])) > 0.01


def test_behind_a_fisheye_there_is_nothing(furnished: Room) -> None:
    wide = Camera.of("OPENCV_FISHEYE", 320, 240, [80, 80, 160, 120, 0, 0, 0, 0])
    image, depth = furnished.render(wide, pose_in(furnished, 0), sensor=SHARP)
    plane = wide.cam_from_img(pixel_centers(wide)).reshape(240, 320, 2)
    behind = ~plane.isfinite().all(dim=2)
    assert behind.any()
    assert torch.equal(depth == 0, behind)
    assert not image[:, behind].any()


def test_the_scene_says_what_it_is(small_room: Scene) -> None:
    assert (small_room.ground_truth, small_room.layout, small_room.metric) == (
        "synthetic",
        "synthetic",
        True,
    )
    assert (len(small_room.mapping), len(small_room.queries)) == (40, 12)
    tall = synthetic_scene(2, num_mapping=1, num_queries=0, width=60, height=80)
    assert tall.mapping[0].read_image().shape == (3, 80, 60)
    assert float(tall.mapping[0].camera.focal[0]) == pytest.approx(525 / 640 * 80)


def test_a_scene_without_views_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        synthetic_scene(num_mapping=0)


def test_without_embree_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
    with pytest.raises(InputError, match=r"pip install reloc\[synthetic\]"):
        Room(0)
