"""The evaluator against the figures of estimates that others have published."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from reloc.evaluation.report import Threshold, evaluate
from reloc.exports import read_pose_text
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.scenes.scene import Scene, View

# Scene, reference, file, % within 5 cm and 5°, % within 2 cm and 2°, medians in cm and °, maxima
# in cm and °: the table of the data's README, computed by another program.
PUBLISHED = """
redkitchen sfm   as        99.80 95.86 0.5527 0.1604   7.93  3.201
redkitchen sfm   hloc      98.62 91.34 1.0986 0.1417  17.62  2.866
redkitchen sfm   r2d2_rgb  98.42 93.32 0.4372 0.1283  46.59 14.431
redkitchen sfm   r2d2_rgbd 97.76 80.98 1.0086 0.2453  18.35  6.679
redkitchen sfm   dsac_rgb  96.96 90.70 0.7406 0.2116 260.45 61.204
redkitchen sfm   dsac_rgbd 96.36 63.12 1.5831 0.4394  13.72  5.898
redkitchen dslam as        45.16  7.62 5.3730 1.7200  77.99 24.642
redkitchen dslam hloc      61.88 12.52 4.0292 1.3817 112.93 35.487
redkitchen dslam r2d2_rgb  61.22 13.10 4.1241 1.4443  85.07 15.960
redkitchen dslam r2d2_rgbd 72.58 22.56 3.2802 1.1959  29.63  7.951
redkitchen dslam dsac_rgb  65.46 17.58 3.8852 1.2384 340.47 74.990
redkitchen dslam dsac_rgbd 92.42 53.84 1.8816 0.7968  19.15  4.965
chess      sfm   as        99.90 99.10 0.4260 0.1406   6.14  2.505
chess      sfm   hloc     100.00 99.55 0.7807 0.1096   4.15  1.018
chess      sfm   r2d2_rgb 100.00 99.30 0.3791 0.1190   3.61  1.093
chess      sfm   r2d2_rgbd 99.95 87.65 0.9509 0.2843   5.42  1.583
chess      sfm   dsac_rgb  99.85 98.35 0.5025 0.1661   8.99  3.384
chess      sfm   dsac_rgbd 99.60 77.70 1.4222 0.4522   7.03  2.260
chess      dslam as        86.40 33.45 2.6834 0.8740  17.79  3.567
chess      dslam hloc      94.15 38.60 2.3995 0.7746   8.40  2.949
chess      dslam r2d2_rgb  93.95 43.40 2.2513 0.7705  15.99  4.547
chess      dslam r2d2_rgbd 93.10 36.45 2.4679 0.8563  10.27  3.447
chess      dslam dsac_rgb  97.80 55.65 1.8260 0.5864  11.58  4.511
chess      dslam dsac_rgbd 99.35 92.30 0.8468 0.3798   8.35  3.472
"""
LINES = [line.split() for line in PUBLISHED.strip().splitlines()]


@cache
def published_scene(poses_path: Path, reference: str) -> Scene:
    """Views without images: `name qw qx qy qz tx ty tz f`, world to camera."""
    lines = [line.split() for line in poses_path.read_text(encoding="utf-8").splitlines()]
    values = torch.tensor(
        [[float(word) for word in words] for _, *words in lines], dtype=torch.float64
    )
    poses = Rigid3d.from_quat_wxyz(values[:, :4], values[:, 4:7])
    camera = Camera.simple_pinhole(float(values[0, 7]), 640, 480)
    views = [
        View(name, camera, Rigid3d(R, t), no_image)
        for (name, *_), R, t in zip(lines, poses.rotation, poses.translation, strict=True)
    ]
    return Scene(poses_path.stem, (), views, reference)


def no_image() -> torch.Tensor:
    raise AssertionError("an evaluation reads no image")


@pytest.mark.data
@pytest.mark.parametrize(
    ("place", "reference", "method", "figures"),
    [pytest.param(*line[:3], line[3:], id="-".join(line[:3])) for line in LINES],
)
def test_every_published_digit(
    shared_data: Path, place: str, reference: str, method: str, figures: list[str]
) -> None:
    folder = shared_data / "7scenes"
    scene = published_scene(folder / "pgt" / reference / f"{place}_test.txt", reference)
    report = evaluate(
        read_pose_text(folder / "estimates" / reference / f"{place}_{method}.txt"), scene
    )
    assert len(report) == {"redkitchen": 5000, "chess": 2000}[place]
    found = [
        f"{100 * report.recall(Threshold(0.05, 5)):.2f}",
        f"{100 * report.recall(Threshold(0.02, 2)):.2f}",
        f"{100 * report.median_position:.4f}",
        f"{report.median_rotation_deg:.4f}",
        f"{100 * report.position_error.max():.2f}",
        f"{report.rotation_error_deg.max():.3f}",
    ]
    assert found == figures


@pytest.mark.data
def test_errors_are_those_that_the_authors_of_dsac_wrote_beside_their_poses(
    shared_data: Path,
) -> None:
    folder = shared_data / "7scenes"
    path = folder / "estimates" / "sfm" / "chess_dsac_rgb.txt"
    report = evaluate(
        read_pose_text(path), published_scene(folder / "pgt" / "sfm" / "chess_test.txt", "sfm")
    )
    written = {
        line.split()[0]: [float(word) for word in line.split()[8:]]
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    rotation_deg, position_m = np.array([written[name] for name in report.names]).T
    # Their poses and errors have six decimals.
    np.testing.assert_allclose(report.rotation_error_deg, rotation_deg, atol=1e-4, rtol=0)
    np.testing.assert_allclose(report.position_error, position_m, atol=4e-6, rtol=0)
