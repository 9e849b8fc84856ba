"""SVS-Pose: views that nobody took, made from depth, are learned with those that were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from reloc.contract import Method, Run
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, steps_of
from reloc.methods.absolute.features import Shape
from reloc.nn.pose_layers import ImageVector, PoseHead
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose
from reloc.nn.rotations import RotationName
from reloc.scenes.scene import View

# Points nearer to the moved camera than this share of the median depth are not drawn.
_NEAREST = 0.1
_INPAINT_RADIUS_PX = 3.0


@dataclass(frozen=True)
class SvsPoseConfig(AbsoluteConfig):
    """Settings of SVS-Pose. Without depth maps, no views are made, and the log says so."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(default_factory=lambda: PoseLossConfig(distance="quaternion"))
    """Which loss."""
    views_made: int = 300
    """Views that are made, from mapping views with depth in turn."""
    max_shift: float = 0.1
    """How far a made view's camera is moved at most, as a share of the median depth."""
    max_turn_deg: float = 8.0
    """How far it is turned at most, about each axis."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.views_made, self.max_shift, self.max_turn_deg) < 0:
            raise ValueError("views_made, max_shift and max_turn_deg must not be negative")


class SvsPose(nn.Module):
    """Image vector to position; a branch of its own for the rotation."""

    def __init__(self, shape: Shape, config: SvsPoseConfig) -> None:
        super().__init__()
        width = config.width
        self.vector = ImageVector(shape, config.channels, width, config.dropout)
        self.position = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU())
        self.rotation = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU())
        self.head = PoseHead(width // 2, config.rotation)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps."""
        vector = self.vector(map_BChw)
        return self.head(self.position(vector), self.rotation(vector))


def with_made_views(views: Sequence[View], config: SvsPoseConfig, run: Run) -> Sequence[View]:
    """The views, and those that are made of them; views whose depth cannot be read are logged."""
    if config.views_made == 0:
        return views
    sources = [view for view in views if view.depth_reader is not None]
    if not sources:
        run.log.warning("no view is made: no mapping view has depth")
        return views
    made = []
    for number in range(config.views_made):
        # Of all sources in turn, or of some that are spread over all.
        turn = number % len(sources)
        if len(sources) > config.views_made:
            turn = number * len(sources) // config.views_made
        rng = np.random.default_rng((run.seed, number))
        try:
            made.append(_made_view(sources[turn], number, config, rng))
        except InputError as error:
            run.log.warning("left out: %s", error)
    return [*views, *made]


def _made_view(source: View, number: int, config: SvsPoseConfig, rng: np.random.Generator) -> View:
    """A view from near the source's, whose pixels are drawn when they are asked for."""
    depth_HW = source.read_depth()
    known = None if depth_HW is None else depth_HW[depth_HW > 0]
    if known is None or len(known) == 0:
        return replace(source, name=f"{source.name} again {number}")
    median = float(known.median())
    turn_rad = np.radians(config.max_turn_deg) * rng.uniform(-1, 1, 3)
    shift = config.max_shift * median * rng.uniform(-1, 1, 3)
    made_from_source = Rigid3d.exp(torch.from_numpy(np.concatenate([turn_rad, shift])))
    # Small, for only small ones are learned.
    scale = config.short_side_px / min(source.camera.width, source.camera.height)
    width = max(1, round(scale * source.camera.width))
    height = max(1, round(scale * source.camera.height))
    camera = source.camera.resized(width, height)

    def draw() -> Tensor:
        return drawn_from(source, made_from_source, (width, height), _NEAREST * median)

    return replace(
        source,
        name=f"{source.name} made {number}",
        camera=camera,
        cam_from_world=made_from_source @ source.cam_from_world,
        image_reader=draw,
        depth_reader=None,
        label_reader=None,
    )


def drawn_from(
    source: View, made_from_source: Rigid3d, size: tuple[int, int], nearest: float
) -> Tensor:
    """What a moved camera sees of a view with depth: (3, height, width) uint8.

    Each pixel is moved by its depth, the nearer over the further; what none reaches is filled from
    its surroundings.

    Args:
        source: the view; it has depth.
        made_from_source: the moved camera.
        size: width and height of the picture.
        nearest: depth under which nothing is drawn.
    """
    width, height = size
    image = source.read_image().permute(1, 2, 0).contiguous().numpy()
    depth_HW = source.read_depth()
    assert depth_HW is not None
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    depth = cv2.resize(depth_HW.numpy(), size, interpolation=cv2.INTER_NEAREST)
    camera = source.camera.resized(width, height)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels_N2 = torch.from_numpy(np.stack([x, y], -1).reshape(-1, 2))
    depth_N = torch.from_numpy(depth.reshape(-1)).double()
    rays_N3 = torch.nn.functional.pad(camera.cam_from_img(pixels_N2), (0, 1), value=1.0)
    moved_N3 = made_from_source @ (rays_N3 * depth_N[:, None])
    z_N = moved_N3[:, 2]
    there_N2 = camera.img_from_cam(moved_N3)
    there_N2 = there_N2.nan_to_num(-1.0).floor().long()
    inside_N = (there_N2 >= 0).all(-1) & (there_N2 < torch.tensor(size)).all(-1)
    drawn_M = (inside_N & (depth_N > 0) & (z_N > nearest)).nonzero()[:, 0]
    # Far ones first: of two in one pixel, the last is seen.
    drawn_M = drawn_M[z_N[drawn_M].argsort(descending=True)].numpy()
    columns, rows = there_N2.numpy()[drawn_M].T
    canvas, empty = np.zeros_like(image), np.full((height, width), 255, np.uint8)
    canvas[rows, columns] = image.reshape(-1, 3)[drawn_M]
    empty[rows, columns] = 0
    filled = cv2.inpaint(canvas, empty, _INPAINT_RADIUS_PX, cv2.INPAINT_TELEA)
    return torch.from_numpy(filled.astype(np.uint8)).permute(2, 0, 1)


build_map, localizer = steps_of(Design(SvsPose, views=with_made_views))

METHOD = Method(
    name="svs-pose",
    family="absolute",
    summary="Learns also views that are made from depth; a branch of its own for the rotation.",
    paper="Naseer and Burgard, Deep Regression for Monocular Camera-Based 6-DoF Global "
    "Localization in Outdoor Environments, IROS 2017",
    published="1.33 m, 5.2° (four scenes of Cambridge); not reproduced",
    config=SvsPoseConfig,
    tiny=SvsPoseConfig(**TINY, views_made=40),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    maps_depth=True,
)
