"""How SANet answers a query: retrieve, decode, find the pose."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.estimation.absolute import estimate_absolute_pose
from reloc.estimation.rigid_alignment import estimate_rigid_alignment
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text
from reloc.methods.coordinates.localizer import confidence
from reloc.nn import weights
from reloc.nn.descriptors import open_descriptor
from reloc.nn.descriptors.gem import GemConfig
from reloc.nn.encoder import STRIDE, cell_centers
from reloc.nn.scene_agnostic import (
    KnownPoints,
    LocalFrame,
    QueryPyramid,
    decoder_sha256,
    load_decoder,
    look_up,
)
from reloc.nn.shared_encoder import open_encoder
from reloc.nn.weights import EncoderName
from reloc.scenes.scene import Query
from reloc.training.buffer import depth_at, encode, resized_grey

_DESCRIPTOR = "descriptor."

# Pose from the map's centre, covariance, agreeing cells, and the camera where it was estimated.
_Found = tuple[Rigid3d, Tensor, int, Camera | None]


@dataclass(frozen=True)
class SanetConfig:
    """Settings of a map that nothing is trained on."""

    encoder: EncoderName = "base"
    """The shared encoder."""
    decoder: Literal["shipped", "soft-nearest"] = "shipped"
    """What makes points of the retrieved ones: the "shipped" decoder, trained on rendered rooms, or
    no network: the mean of the "soft-nearest" neighbours, which is where the decoder began."""
    short_side_px: int = 240
    """Images are resized to this shorter side, and for the coarse level to half of it; errors in
    pixels are of the resized image."""
    max_views: int = 1000
    """Most mapping views that are stored, evenly spaced where there are more."""
    fine_cells: int = 600
    """Most cells that are stored of a view..."""
    coarse_cells: int = 200
    """...and of its half-size copy."""
    num_retrieved: int = 5
    """Views that a query's points are read off."""
    num_neighbours: int = 16
    """Points of theirs that a cell looks up."""
    max_error_px: float = 5.0
    """Reprojection error up to which a point agrees with a pose."""
    min_inlier_ratio: float = 0.02
    """With a smaller share of its cells agreeing, a query is declined."""
    query_depth: bool = False
    """Queries come with depth: the pose moves their measured points onto the decoded ones."""
    max_depth_error: float = 0.05
    """Then this far off a point agrees with a pose, as a share of the points' typical distance."""

    def __post_init__(self) -> None:
        counts = ("max_views", "fine_cells", "coarse_cells", "num_retrieved", "num_neighbours")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.short_side_px < 2 * STRIDE:
            raise ValueError(
                f"short_side_px is {self.short_side_px}; it must be at least {2 * STRIDE}"
            )
        for name in ("max_error_px", "max_depth_error"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.decoder == "shipped" and self.encoder != "base":
            raise ValueError(
                f"encoder is {self.encoder}; the shipped decoder knows the codes of base only"
            )


def decoder_path() -> Path:
    """Where the decoder lies in an installation that has it."""
    return weights.FOLDER / "sanet_rooms.safetensors"


@dataclass(frozen=True, eq=False)
class Seen:
    """What was decoded of a query.

    Attributes:
        pixels_N2: float64, of its cells.
        points_N3: float64, from the map's centre.
        unit: the typical distance of the retrieved points.
        best: index of the view that it looks most like.
    """

    pixels_N2: Tensor
    points_N3: Tensor
    unit: float
    best: int


class SanetLocalizer:
    """Answers queries with retrieved views.

    Args:
        tensors: a map.
        config: of the map.
        run: device, seed, precision.
        hidden: indices of views that are not retrieved.

    Raises:
        InputError: the encoder or the decoder that is installed is another one.
    """

    def __init__(
        self, tensors: Tensors, config: SanetConfig, run: Run, hidden: Sequence[int] = ()
    ) -> None:
        self._config, self._run = config, run
        state = {
            name.removeprefix(_DESCRIPTOR): value
            for name, value in tensors.items()
            if name.startswith(_DESCRIPTOR)
        }
        # It refuses another encoder than it was fitted with.
        self._descriptor = open_descriptor("gem", state, GemConfig(encoder=config.encoder))
        self._encoder = open_encoder(config.encoder, run)
        self._decoder = None
        if config.decoder == "shipped":
            path = decoder_path()
            if tensor_to_text(tensors["decoder_sha256"]) != [decoder_sha256(path)]:
                raise InputError("the map needs another decoder than this reloc has: build it anew")
            self._decoder = load_decoder(path, config.num_neighbours).to(run.device)
        self._vectors_VD = tensors["vectors"].float()
        shown = [index for index in range(len(self._vectors_VD)) if index not in hidden]
        self._shown_S = torch.tensor(shown)
        self._cam_from_center = Rigid3d(tensors["rotations"], tensors["translations"])
        self._center_3 = tensors["center_3"]
        self._growth = float(tensors["covariance_scale"])
        self._names = tensor_to_text(tensors["names"])
        self._levels = {
            level: [
                tensors[f"{level}.{kind}"].split(tensors[f"{level}.counts"].tolist())
                for kind in ("codes", "points")
            ]
            for level in ("coarse", "fine")
        }

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, each for itself.

        Raises:
            InputError: a query has no depth, and the map is for those that have.
        """
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> PoseEstimate:
        if self._config.query_depth and query.depth is None:
            raise InputError(
                f"query {query.name} has no depth and the map is for queries with depth: give its "
                "depth, or build a map without --query-depth"
            )
        started = time.perf_counter()
        seen = self.see(query)
        decoded = time.perf_counter()
        if seen is None:
            return PoseEstimate(None)
        # Depth on rays that nobody knows is no points: the focal length comes with the pose.
        measured = self._config.query_depth and query.camera.has_prior_focal
        find = self._pose_by_depth if measured else self._pose_by_pixels
        answer = find(query, seen)
        stage_ms = {
            "points": 1e3 * (decoded - started),
            "pose": 1e3 * (time.perf_counter() - decoded),
        }
        if answer is None:
            return PoseEstimate(None, stage_ms=stage_ms)
        pose, covariance, num_inliers, camera = answer
        inlier_ratio = num_inliers / len(seen.points_N3)
        if inlier_ratio < self._config.min_inlier_ratio:
            return PoseEstimate(None, stage_ms=stage_ms)
        center_from_world = Rigid3d(torch.eye(3, dtype=torch.float64), -self._center_3)
        return PoseEstimate(
            cam_from_world=pose @ center_from_world,
            confidence=confidence(inlier_ratio),
            covariance=self._growth * covariance,
            num_inliers=num_inliers,
            camera=camera,
            reference=self._names[seen.best],
            inlier_ratio=inlier_ratio,
            stage_ms=stage_ms,
        )

    @torch.no_grad()
    def see(self, query: Query) -> Seen | None:
        """Scene points of the query's cells; None where it shows nothing."""
        vector_D = self._descriptor.describe(query.image)
        if not bool(vector_D.any()):
            return None
        similarity_S = self._vectors_VD[self._shown_S] @ vector_D
        nearest = similarity_S.argsort(descending=True, stable=True)[: self._config.num_retrieved]
        views = self._shown_S[nearest].tolist()
        coarse, fine = (self._retrieved(level, views) for level in ("coarse", "fine"))
        frame = LocalFrame.of(self._cam_from_center[views[0]], fine[1])
        device = self._run.device
        known = [
            KnownPoints(codes.float().to(device), frame.local(points).to(device))
            for codes, points in (coarse, fine)
        ]
        short_side_px = self._config.short_side_px
        coarse_HW, fine_HW = (
            torch.from_numpy(resized_grey(query.image, side))
            for side in (short_side_px // 2, short_side_px)
        )
        codes_NC = encode(self._encoder, fine_HW[None], self._run)[0].float()
        rows, columns = (side // STRIDE for side in fine_HW.shape)
        to_image = torch.tensor([query.camera.width, query.camera.height]).double()
        to_image /= torch.tensor([fine_HW.shape[1], fine_HW.shape[0]])
        pixels_N2 = cell_centers(rows, columns).double() * to_image
        if self._decoder is None:
            points_N3 = look_up(codes_NC, known[1], self._config.num_neighbours).soft_nearest()
        else:
            coarse_MC = encode(self._encoder, coarse_HW[None], self._run)[0].float()
            pyramid = QueryPyramid.of(
                coarse_MC, coarse_HW.shape, codes_NC, fine_HW.shape, query.camera
            )
            # All of them: the surest lie close together, and fix a pose less well.
            points_N3 = self._decoder(pyramid, *known).points_N3
        return Seen(pixels_N2, frame.world(points_N3.cpu()), frame.unit, views[0])

    def _retrieved(self, level: str, views: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Codes (S, C) and points (S, 3) of the views' cells."""
        codes, points = self._levels[level]
        return torch.cat([codes[v] for v in views]), torch.cat([points[v] for v in views])

    def _pose_by_pixels(self, query: Query, seen: Seen) -> _Found | None:
        found = estimate_absolute_pose(
            seen.pixels_N2,
            seen.points_N3,
            query.camera,
            self._config.max_error_px * min(query.image.shape[-2:]) / self._config.short_side_px,
            seed=self._run.seed,
        )
        if found is None:
            return None
        camera = None if query.camera.has_prior_focal else found.camera
        return found.cam_from_world, found.covariance, found.num_inliers, camera

    def _pose_by_depth(self, query: Query, seen: Seen) -> _Found | None:
        rays_N2 = query.camera.cam_from_img(seen.pixels_N2)
        rays_N3 = torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=1)
        points_cam_N3 = rays_N3 * depth_at(query.depth, seen.pixels_N2)[:, None]
        found = estimate_rigid_alignment(
            points_cam_N3,
            seen.points_N3[:, None],
            torch.ones(len(points_cam_N3), 1),
            self._config.max_depth_error * seen.unit,
            seed=self._run.seed,
        )
        if found is None:
            return None
        return found.cam_from_world, found.covariance, found.num_inliers, None
