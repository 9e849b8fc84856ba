"""Answers from a spatial memory: a query's surroundings at every heading, over every cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text
from reloc.methods.allocentric.config import AllocentricConfig
from reloc.methods.allocentric.grid import Grid
from reloc.methods.allocentric.ground import about_z, level_direction, leveled_from_cam
from reloc.methods.allocentric.heights import Heights
from reloc.methods.allocentric.learning import diffused
from reloc.methods.allocentric.memory import Asked, SpatialMemory
from reloc.methods.allocentric.peak import Peak, find_peak
from reloc.methods.allocentric.sightings import sight
from reloc.nn.encoder import SIZES
from reloc.nn.shared_encoder import encoder_of_map
from reloc.nn.unfilled import unfilled
from reloc.scenes.scene import Query

NETWORK = "network."
# Radians that a view may be turned away, for one metre that it is away, to be as near.
_METRES_PER_RADIAN = 1.0


class AllocentricLocalizer:
    """Answers queries with depth; the frames of a sequence in their order.

    Args:
        tensors: a map.
        config: of the map.
        run: device, precision.

    Raises:
        InputError: the encoder is not the one that the map was made with.
    """

    def __init__(self, tensors: Tensors, config: AllocentricConfig, run: Run) -> None:
        self._config, self._run = config, run
        self._encoder = encoder_of_map(tensors, config.encoder, run)
        self._grid = open_grid(tensors)
        self._network = open_network(tensors, config, run)
        self._memory_MXY = tensors["memory"].float().to(run.device)
        low, high = tensors["camera_range"].tolist()
        self._heights = Heights(
            tensors["heights"].float(),
            float(tensors["lowest"]),
            float(tensors["level"]),
            (low, high),
        )
        self._level_from_world_33 = tensors["level_from_world"]
        self._cam_from_world = Rigid3d(tensors["rotations"], tensors["translations"])
        self._names = tensor_to_text(tensors["names"])
        self._focal_ratio = float(tensors["focal_ratio"])
        # Variances of the height and of the tilt about a level axis, then by how much all grow.
        self._height_variance, self._tilt_variance = tensors["rest_variances"].tolist()
        self._growth = float(tensors["covariance_scale"])

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, in order.

        Raises:
            InputError: a query has no depth.
        """
        for query in queries:
            if query.depth is None:
                raise InputError(
                    f"query {query.name} has no depth map, and a spatial memory needs it to place "
                    "what is seen: add it, or ask a map of sift or ace, which need none"
                )
        expected: dict[str, Tensor] = {}
        return [self._localize(query, expected) for query in queries]

    @torch.no_grad()
    def _localize(self, query: Query, expected: dict[str, Tensor]) -> PoseEstimate:
        """Answer a query, and leave what is expected of the next frame of its sequence."""
        carries = self._config.carry and query.sequence != ""
        before_RXY = expected.get(query.sequence) if carries else None
        asked = self.ask(query)
        if asked is None:
            if before_RXY is not None:
                expected[query.sequence] = self._diffused(before_RXY)
            return PoseEstimate(None)
        log_share_RXY = self.distribution(asked, before_RXY)
        if carries:
            expected[query.sequence] = self._diffused(log_share_RXY)
        peak = find_peak(log_share_RXY.cpu(), self._grid, lambda h: self._logits(asked, h).cpu())
        if peak.share < self._config.min_confidence:
            return PoseEstimate(None)
        return self._answer(asked, peak)

    def ask(self, query: Query) -> tuple[Asked, Tensor] | None:
        """A query and the rotation (3, 3) to a frame with z up; None where it shows nothing."""
        camera, config = query.camera, self._config
        assert query.depth is not None
        if not camera.has_prior_focal:
            camera = _with_focal(camera, self._focal_ratio)
        seen = sight(
            self._encoder,
            query.image,
            query.depth,
            camera,
            config.short_side_px,
            config.max_range,
            self._run,
        )
        if seen is None:
            return None
        up_3 = self._level_from_world_33[2]
        leveled_33 = leveled_from_cam(
            level_direction(self._cam_from_world.rotation @ up_3, seen.normals_cam_M3)
        )
        points_N3 = seen.points_cam_N3.double() @ leveled_33.T
        return Asked(seen.codes_NC, points_N3), leveled_33

    def distribution(self, asked: tuple[Asked, Tensor], before_RXY: Tensor | None) -> Tensor:
        """Logarithms (R, X, Y) of the distribution over headings and cells.

        Args:
            asked: the query.
            before_RXY: logarithms of what is expected of it; None: nothing is.
        """
        logits_RXY = self._logits(asked, self._grid.headings_rad)
        if before_RXY is not None:
            logits_RXY = logits_RXY + before_RXY
        return logits_RXY.flatten().log_softmax(0).reshape(logits_RXY.shape)

    def _logits(self, asked: tuple[Asked, Tensor], headings_rad_R: Tensor) -> Tensor:
        device = self._run.device
        seen = Asked(asked[0].codes_NC.to(device), asked[0].points_N3.float().to(device))
        headings_rad_R = headings_rad_R.to(device, torch.float32)
        return self._network.logits(self._grid, self._memory_MXY, seen, headings_rad_R)

    def _diffused(self, log_share_RXY: Tensor) -> Tensor:
        config = self._config
        turn = config.turn_deg / 360 * self._grid.num_headings
        return diffused(log_share_RXY, turn, config.move / self._grid.cell, config.lost)

    def _answer(self, asked: tuple[Asked, Tensor], peak: Peak) -> PoseEstimate:
        """The pose at a peak: tilt by the query's surfaces, height by those that the map knows."""
        query, leveled_33 = asked
        turn_33 = about_z(torch.tensor(peak.heading_rad, dtype=torch.float64))
        level_from_cam_33 = turn_33 @ leveled_33
        rotation_33 = level_from_cam_33.T @ self._level_from_world_33
        height = self._heights.of_camera(self._grid, query.points_N3 @ turn_33.T, peak.place_2)
        world_from_views = self._cam_from_world.inverse()
        centers_V3 = world_from_views.translation @ self._level_from_world_33.T
        cos_V = (self._cam_from_world.rotation[:, 2] @ rotation_33[2]).clamp(-1, 1)
        far_V = (centers_V3[:, :2] - peak.place_2).norm(dim=1) + _METRES_PER_RADIAN * cos_V.acos()
        nearest = int(far_V.argmin())
        if height is None:
            height = float(centers_V3[nearest, 2])
        center_3 = torch.cat([peak.place_2, peak.place_2.new_tensor([height])])
        center_world_3 = self._level_from_world_33.T @ center_3
        cam_from_world = Rigid3d(rotation_33, -rotation_33 @ center_world_3)
        return PoseEstimate(
            cam_from_world,
            confidence=peak.share,
            covariance=self._growth * self._covariance(peak, level_from_cam_33.T),
            reference=self._names[nearest],
        )

    def _covariance(self, peak: Peak, cam_from_level_33: Tensor) -> Tensor:
        """(6, 6), of a left perturbation: minus what moves the camera, in the camera's frame."""
        # In the level frame: rotation, then place of the camera.
        level_66 = torch.zeros(6, 6, dtype=torch.float64)
        level_66[0, 0] = level_66[1, 1] = self._tilt_variance
        at_3 = torch.tensor([3, 4, 2])
        level_66[at_3[:, None], at_3] = peak.covariance_33
        level_66[5, 5] = self._height_variance
        moved_66 = torch.block_diag(cam_from_level_33, cam_from_level_33)
        covariance_66 = moved_66 @ level_66 @ moved_66.T
        return (covariance_66 + covariance_66.T) / 2


def open_grid(tensors: Tensors) -> Grid:
    """The grid of a map."""
    _, columns, rows = tensors["memory"].shape
    radius, num_headings = tensors["grid"].tolist()
    return Grid(tensors["origin"], float(tensors["cell"]), (columns, rows), num_headings, radius)


def new_network(config: AllocentricConfig) -> SpatialMemory:
    """A network whose weights draw from the process."""
    return SpatialMemory(
        SIZES[config.encoder].code,
        config.features,
        config.bands,
        config.band_height,
        config.update,
    )


def open_network(tensors: Tensors, config: AllocentricConfig, run: Run) -> SpatialMemory:
    """The network of a map."""
    with unfilled():
        network = new_network(config)
    state = {
        name.removeprefix(NETWORK): value.clone()
        for name, value in tensors.items()
        if name.startswith(NETWORK)
    }
    network.load_state_dict(state, assign=True)
    return network.to(run.device).eval().requires_grad_(False)


def _with_focal(camera: Camera, ratio: float) -> Camera:
    """Of an unknown focal length that of the mapping views is the best guess."""
    return camera.with_focal(ratio * max(camera.width, camera.height), has_prior_focal=False)
