"""Laws of triangulation and of the choice of views and pairs."""

import math

import torch

from reloc.estimation.triangulation import triangulate
from reloc.estimation.view_selection import pairs_by_pose, select_distinct_views, unique_pairs
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d

CAMERA = Camera.of("SIMPLE_RADIAL", 800, 600, [666.0, 400.0, 300.0, -0.02])


def _row_of_cameras(count: int, step: float) -> Rigid3d:
    """Cameras along x, all looking along z."""
    centers_N3 = torch.zeros(count, 3, dtype=torch.float64)
    centers_N3[:, 0] = step * torch.arange(count)
    return Rigid3d(torch.eye(3, dtype=torch.float64).expand(count, 3, 3), -centers_N3)


def _matched(cam_from_world: Rigid3d, points_N3: torch.Tensor):
    """Every point seen by every camera, and matched between all pairs."""
    keypoints = [
        CAMERA.img_from_cam(cam_from_world[index] @ points_N3)
        for index in range(len(cam_from_world.translation))
    ]
    same_N2 = torch.arange(len(points_N3))[:, None].expand(-1, 2)
    pairs = [(i, j) for j in range(len(keypoints)) for i in range(j)]
    return keypoints, dict.fromkeys(pairs, same_N2)


def test_exact_matches_give_the_exact_points_in_one_track_each():
    poses = _row_of_cameras(4, 0.2)
    points_N3 = torch.tensor([0.3, 0.0, 3.0]) + torch.randn(
        60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ) * torch.tensor([0.5, 0.5, 0.3])
    keypoints, matches = _matched(poses, points_N3)
    found = triangulate([CAMERA] * 4, poses, keypoints, matches, 2.0, 1.0)
    assert len(found) == len(points_N3)
    assert len(found.track_point_T) == 4 * len(points_N3)
    truth_T3 = points_N3[found.track_keypoint_T]
    assert (found.world_N3[found.track_point_T] - truth_T3).norm(dim=1).max() < 1e-5


def test_a_wrong_match_makes_no_point_and_a_narrow_angle_none():
    poses = _row_of_cameras(2, 0.2)
    points_N3 = torch.tensor([[0.0, 0.0, 3.0], [0.2, 0.3, 2.5]], dtype=torch.float64)
    keypoints, matches = _matched(poses, points_N3)
    keypoints[1] = keypoints[1] + torch.tensor([[0.0, 0.0], [0.0, 40.0]])
    found = triangulate([CAMERA] * 2, poses, keypoints, matches, 2.0, 1.0)
    assert found.track_keypoint_T.unique().tolist() == [0]
    angle_deg = math.degrees(math.atan2(0.2, 3.0))
    assert not len(triangulate([CAMERA] * 2, poses, keypoints, matches, 2.0, 1.2 * angle_deg))


def test_no_matches_give_no_points():
    found = triangulate([CAMERA] * 2, _row_of_cameras(2, 1.0), [torch.zeros(0, 2)] * 2, {}, 2, 1)
    assert len(found) == 0
    assert found.world_N3.shape == (0, 3)


def test_a_slow_video_is_thinned_and_photos_are_all_kept():
    assert select_distinct_views(_row_of_cameras(101, 0.01), 0.045, 3.0) == list(range(0, 101, 5))
    assert select_distinct_views(_row_of_cameras(6, 1.0), 0.05, 3.0) == list(range(6))


def test_a_camera_that_turns_on_the_spot_is_kept_at_every_turn():
    tangents = torch.zeros(10, 6, dtype=torch.float64)
    tangents[:, 1] = torch.deg2rad(torch.arange(10) * 2.0)
    # Every second frame: the first that is 4 degrees on.
    assert select_distinct_views(Rigid3d.exp(tangents), 0.05, 3.0) == [0, 2, 4, 6, 8]


def test_pairs_look_the_same_way():
    away = Rigid3d(
        torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)).expand(3, 3, 3),
        torch.zeros(3, 3, dtype=torch.float64),
    )
    row = _row_of_cameras(3, 0.1)
    poses = Rigid3d(
        torch.cat([row.rotation, away.rotation]), torch.cat([row.translation, away.translation])
    )
    pairs = pairs_by_pose(poses, pairs_per_view=4, max_angle_deg=60)
    assert {(int(i) < 3, int(j) < 3) for i, j in pairs} == {(True, True), (False, False)}
    assert bool((pairs[:, 0] < pairs[:, 1]).all())


def test_unique_pairs():
    pairs = torch.tensor([[2, 1], [1, 2], [3, 3], [0, 5]])
    assert unique_pairs(pairs).tolist() == [[0, 5], [1, 2]]
