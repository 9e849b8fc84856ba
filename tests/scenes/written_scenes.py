"""Small scenes of every layout, written with numpy and scipy alone, and the truth about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

# Colour camera to depth camera of 7-Scenes, as measured on the published poses (metres, degrees).
DEPTH_FROM_RGB = np.eye(4)
DEPTH_FROM_RGB[:3, :3] = Rotation.from_rotvec([-0.4676, 0.4522, 0.1552], degrees=True).as_matrix()
DEPTH_FROM_RGB[:3, 3] = [0.02551, -0.00008, -0.00214]
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Truth:
    """What a scene must load as: world_from_cam (4, 4) in OpenCV axes by name, and who is asked."""

    world_from_cam: dict[str, np.ndarray]
    mapping: list[str]
    queries: list[str]


def random_poses(names: list[str], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    poses = {}
    for name in names:
        pose = np.eye(4)
        pose[:3, :3] = Rotation.random(random_state=rng).as_matrix()
        pose[:3, 3] = rng.normal(size=3)
        poses[name] = pose
    return poses


def quat_wxyz(rotation: np.ndarray) -> np.ndarray:
    return np.roll(Rotation.from_matrix(rotation).as_quat(), 1)


def text(values: np.ndarray) -> str:
    return " ".join(f"{value:.9f}" for value in np.ravel(values))


def w2c_line(world_from_cam: np.ndarray) -> str:
    """`qw qx qy qz tx ty tz` of the inverse."""
    cam_from_world = np.linalg.inv(world_from_cam)
    return f"{text(quat_wxyz(cam_from_world[:3, :3]))} {text(cam_from_world[:3, 3])}"


def write_image(path: Path, size: tuple[int, int] = (32, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((size[1], size[0], 3), 90, dtype=np.uint8)
    image[: size[1] // 2, : size[0] // 3] = (10, 200, 60)
    assert cv2.imwrite(str(path), image)


def write_depth(path: Path, depth: np.ndarray) -> None:
    assert cv2.imwrite(str(path), depth.astype(np.uint16))


def write_seven_scenes(folder: Path) -> Truth:
    names = [f"seq-0{s}/frame-00000{i}.color.png" for s in (1, 2) for i in range(3)]
    poses = random_poses(names)
    for name, world_from_rgb in poses.items():
        write_image(folder / name, (640, 480))
        pose = world_from_rgb @ np.linalg.inv(DEPTH_FROM_RGB)
        file = folder / name.replace(".color.png", ".pose.txt")
        file.write_text("\n".join(text(row) for row in pose) + "\n")
    write_depth(folder / "seq-01/frame-000000.depth.png", np.full((480, 640), 2000))
    (folder / "TrainSplit.txt").write_text("sequence1\n")
    (folder / "TestSplit.txt").write_text("sequence2\n")
    return Truth(poses, names[:3], names[3:])


def write_twelve_scenes(folder: Path) -> Truth:
    names = [f"data/frame-00000{i}.color.jpg" for i in range(5)]
    poses = random_poses(names)
    for name, world_from_cam in poses.items():
        write_image(folder / name, (64, 48))
        file = folder / name.replace(".color.jpg", ".pose.txt")
        file.write_text("\n".join(text(row) for row in world_from_cam) + "\n")
    write_depth(folder / "data/frame-000002.depth.png", np.full((24, 32), 1500))
    (folder / "info.txt").write_text(
        "m_versionNumber = 4\nm_sensorName = StructureSensor\nm_colorWidth = 64\n"
        "m_colorHeight = 48\nm_depthShift = 1000\n"
        "m_calibrationColorIntrinsic = 58.3 0 33 0 0 57.5 23.5 0 0 0 1 0 0 0 0 1\n"
    )
    (folder / "split.txt").write_text(
        "sequence0 [frames=2]  [start=0 ; end=1]\nsequence1 [frames=3]  [start=2 ; end=4]\n"
    )
    return Truth(poses, names[2:], names[:2])


def write_cambridge(folder: Path) -> Truth:
    names = [f"seq{s}/frame0000{i}.png" for s in (1, 2) for i in range(3)]
    poses = random_poses(names)
    heading = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"
    lines, cameras = [], []
    for number, (name, world_from_cam) in enumerate(poses.items()):
        write_image(folder / name)
        quaternion = text(quat_wxyz(world_from_cam[:3, :3].T))
        lines.append(f"{name} {text(world_from_cam[:3, 3])} {quaternion}")
        jpg = name.replace(".png", ".jpg")
        cameras.append(f"{jpg}\t{30 + number} 1 0 0 0 0 0 0 -0.1 0")
    (folder / "dataset_train.txt").write_text(heading + "\n".join(lines[:3]) + "\n")
    (folder / "dataset_test.txt").write_text(heading + "\n".join(lines[3:]) + "\n")
    nvm = ["NVM_V3 ", "", str(len(cameras)), *cameras, "", "1", "0 0 0 255 255 255 1 0 0 1 1"]
    (folder / "reconstruction.nvm").write_text("\n".join(nvm) + "\n")
    return Truth(poses, names[:3], names[3:])


def write_robotcar(folder: Path) -> Truth:
    """Images lie halfway between rows of ins.csv; the pose is that of the inertial unit."""
    cam_from_body = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    rng = np.random.default_rng(0)
    poses: dict[str, np.ndarray] = {}
    roles: list[list[str]] = [[], []]
    origin = None
    for part, (drive, list_name) in enumerate(
        [("2014-06-26-08-53-56", "train_split.txt"), ("2014-06-23-15-36-04", "test_split.txt")]
    ):
        start_us = 1403772836000000 + part * 10**9
        positions = np.array([5.7e6, 6.2e5, -110.0]) + np.cumsum(rng.normal(size=(5, 3)), axis=0)
        angles = np.cumsum(0.1 * rng.normal(size=(5, 3)), axis=0)
        rows = ["timestamp,ins_status,latitude,northing,easting,down,utm_zone,roll,pitch,yaw"]
        for i in range(5):
            numbers = [f"{value:.9f}" for value in (*positions[i], *angles[i])]
            rows.append(
                f"{start_us + 20000 * i},INS_OK,51.7,{','.join(numbers[:3])},30U,"
                f"{','.join(numbers[3:])}"
            )
        (folder / drive / "gps").mkdir(parents=True)
        (folder / drive / "gps" / "ins.csv").write_text("\n".join(rows) + "\n")
        for i in range(3):
            name = f"{drive}/stereo/centre/{start_us + 20000 * i + 10000}.png"
            write_image(folder / name, (64, 48))
            # Halfway, by the axis and angle between the neighbours.
            first, second = (Rotation.from_euler("xyz", angles[k]) for k in (i, i + 1))
            half = Rotation.from_rotvec(0.5 * (first.inv() * second).as_rotvec())
            position = (positions[i] + positions[i + 1]) / 2
            origin = position if origin is None else origin
            pose = np.eye(4)
            pose[:3, :3] = (first * half).as_matrix() @ cam_from_body.T
            pose[:3, 3] = position - origin
            poses[name] = pose
            roles[part].append(name)
        # After the last row of ins.csv: no pose.
        write_image(folder / f"{drive}/stereo/centre/{start_us + 90000}.png", (64, 48))
        (folder / list_name).write_text(f"# drives\n{drive}\n")
    return Truth(poses, *roles)


def write_mapfree(folder: Path) -> Truth:
    names = ["seq0/frame_00000.jpg", *(f"seq1/frame_0000{i}.jpg" for i in range(4))]
    poses = random_poses(names)
    for name in names:
        write_image(folder / name, (54, 72))
    lines = [f"{name} {w2c_line(pose)}" for name, pose in poses.items()]
    (folder / "poses.txt").write_text("# name qw qx qy qz tx ty tz\n" + "\n".join(lines) + "\n")
    intrinsics = [f"{name} 59.{i} 58.5 27 36.5 54 72" for i, name in enumerate(names)]
    (folder / "intrinsics.txt").write_text("\n".join(intrinsics) + "\n")
    return Truth(poses, names[:1], names[1:])


def write_nerfstudio(folder: Path) -> Truth:
    names = [f"images/{i:04d}.png" for i in range(10)]
    poses = random_poses(names)
    frames = []
    for name, world_from_cam in poses.items():
        write_image(folder / name)
        matrix = world_from_cam @ OPENGL_FROM_OPENCV
        frames.append({"file_path": f"./{name}", "transform_matrix": matrix.tolist()})
    frames[3].update(fl_x=44.0, fl_y=45.0, k1=0.1)
    content = {
        "camera_model": "OPENCV", "fl_x": 40.0, "fl_y": 41.0, "cx": 15.5, "cy": 12.5, "w": 32,
        "h": 24, "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0, "frames": frames[::-1],
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(content, indent=1))
    return Truth(poses, names[:8], names[8:])


def write_colmap(folder: Path) -> Truth:
    names = [f"{i}.jpg" for i in range(1, 11)]
    poses = random_poses(names)
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (sparse / "cameras.txt").write_text(
        "# cameras\n7 SIMPLE_RADIAL 32 24 30.5 16 12 -0.02\n9 OPENCV 48 24 30 31 24 12 .1 0 0 0\n"
    )
    lines = []
    for number, (name, pose) in enumerate(poses.items(), start=1):
        camera, size = (9, (48, 24)) if number == 3 else (7, (32, 24))
        write_image(folder / "images" / name, size)
        points = "" if number == 2 else "10.5 11.5 -1 3.5 4.5 1"
        lines += [f"{number} {w2c_line(pose)} {camera} {name}", points]
    (sparse / "images.txt").write_text("# images\n" + "\n".join(lines) + "\n")
    (sparse / "points3D.txt").write_text("# points\n")
    (folder / "queries.txt").write_text("9.jpg\n10.jpg\n")
    return Truth(poses, names[:8], names[8:])


def write_tum(folder: Path) -> Truth:
    rng = np.random.default_rng(1)
    truth, rgb, depth, poses = {}, [], [], []
    names = []
    for i in range(10):
        time_s = 1305031102.1753 + i / 30
        name = f"rgb/{time_s:.6f}.png"
        names.append(name)
        pose = next(iter(random_poses([name], seed=i).values()))
        truth[name] = pose
        write_image(folder / name, (640, 480))
        rgb.append(f"{time_s:.6f} {name}")
        quaternion = np.roll(quat_wxyz(pose[:3, :3]), -1)
        nearest_s = time_s + rng.uniform(-0.004, 0.004)
        poses.append(f"{nearest_s:.4f} {text(pose[:3, 3])} {text(quaternion)}")
        # A pose that is nearer in the file, but not in time.
        other = next(iter(random_poses([name], seed=100 + i).values()))
        poses.append(f"{nearest_s + 0.015:.4f} {text(other[:3, 3])} {text(quaternion)}")
    (folder / "depth").mkdir()
    write_depth(folder / "depth/0.png", np.full((480, 640), 10000))
    depth.append(f"{1305031102.1753 + 0.01:.6f} depth/0.png")
    # An image that has no pose within 20 ms.
    late = f"rgb/{1305031102.1753 + 5:.6f}.png"
    write_image(folder / late, (640, 480))
    rgb.append(f"{1305031102.1753 + 5:.6f} {late}")
    for name, lines in (("rgb.txt", rgb), ("depth.txt", depth), ("groundtruth.txt", poses)):
        (folder / name).write_text("# timestamp ...\n" + "\n".join(lines) + "\n")
    return Truth(truth, names[:8], names[8:])


def write_folder(folder: Path) -> Truth:
    names = [f"walk/{i}.jpg" for i in range(10)]
    poses = random_poses(names)
    for name in names:
        write_image(folder / "images" / name)
    lines = [f"{name} {w2c_line(pose)} 31.5" for name, pose in poses.items()]
    heading = "# name qw qx qy qz tx ty tz f   world-to-camera, f in pixels\n# metric: no\n"
    (folder / "poses.txt").write_text(heading + "\n".join(lines) + "\n")
    return Truth(poses, names[:8], names[8:])


WRITERS: dict[str, Callable[[Path], Truth]] = {
    "7scenes": write_seven_scenes,
    "12scenes": write_twelve_scenes,
    "cambridge": write_cambridge,
    "robotcar": write_robotcar,
    "mapfree": write_mapfree,
    "nerfstudio": write_nerfstudio,
    "colmap": write_colmap,
    "tum": write_tum,
    "folder": write_folder,
}
