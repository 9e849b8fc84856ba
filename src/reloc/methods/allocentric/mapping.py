"""Making a spatial memory of mapping views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.contract import Run, Tensors
from reloc.estimation.trials import covariance_scale, left_out
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import text_to_tensor
from reloc.methods.allocentric.config import AllocentricConfig
from reloc.methods.allocentric.grid import Grid
from reloc.methods.allocentric.ground import (
    about_z,
    heading_of,
    level_direction,
    level_from_world,
    leveled_from_cam,
    up_of_place,
)
from reloc.methods.allocentric.heights import Heights
from reloc.methods.allocentric.learning import Lesson, sharpen, train
from reloc.methods.allocentric.localizer import NETWORK, AllocentricLocalizer, new_network
from reloc.methods.allocentric.memory import Asked, SpatialMemory, Written
from reloc.methods.allocentric.sightings import Sighting, sight
from reloc.nn.shared_encoder import encoder_record, open_encoder
from reloc.scenes.scene import View, refuse_guessed_focals

# Of so many views one, and at most so many, are asked of a memory that was written without them;
# then they are written too.
_VIEWS_PER_TRIAL, _MAX_TRIALS = 8, 12
# Normals that tell which way is up, and codes that tell the principal components.
_MAX_NORMALS, _MAX_CODES = 20_000, 20_000
# Share of the points that may lie off the memory, on either side.
_OFF = 0.01
# Until trials say more: half a cell of height, and two degrees of tilt.
_FIRST_TILT_VARIANCE = (2 * torch.pi / 180) ** 2
# Medians of chi-square in one and in two dimensions.
_MEDIAN_CHI_SQUARE_1, _MEDIAN_CHI_SQUARE_2 = 0.455, 1.386


@dataclass(frozen=True, eq=False)
class Place:
    """What the mapping views say of a place.

    Attributes:
        views: those that are used.
        cam_from_world: of these (V).
        level_from_world_33: to a frame with z up.
        grid: of the ground.
        lessons: of the views, in order.
    """

    views: Sequence[View]
    cam_from_world: Rigid3d
    level_from_world_33: Tensor
    grid: Grid
    lessons: Sequence[Lesson]

    @property
    def eye_heights_V(self) -> Tensor:
        """Of the cameras in the level frame."""
        return torch.stack([lesson.place_3[2] for lesson in self.lessons])


def build_map(views: Sequence[View], config: AllocentricConfig, run: Run) -> Tensors:
    """Write mapping views into a memory, after some of them have been asked of it.

    A view that cannot be read, shows nothing, or has no depth, is left out.

    Raises:
        InputError: no view has depth, or none can be used; or one with depth has no known focal
            length.
    """
    place = read_place(views, config, run)
    lessons, grid = place.lessons, place.grid
    network = first_network(place, config, run)
    trials = set(left_out(len(lessons), _VIEWS_PER_TRIAL, _MAX_TRIALS))
    learned = [lesson for number, lesson in enumerate(lessons) if number not in trials]
    tried = [lessons[number] for number in sorted(trials)] if learned else []
    learned = learned or list(lessons)
    if config.steps and len(learned) > 1:
        train(network, grid, learned, config.steps, config.learning_rate, run)
    network.eval().requires_grad_(False)
    kept_MXY = network.write(grid, [lesson.written for lesson in learned])
    surprise = sharpen(network, grid, kept_MXY, tried)
    run.log.info("views that the memory had not seen: cross-entropy %.2f", surprise)

    heights = _heights(place, learned)
    rest_variances = _rest_variances(heights, grid, tried)
    tensors = _tensors(place, network, kept_MXY, heights, rest_variances, config)
    localizer = AllocentricLocalizer(tensors, config, run)
    tried_views = [place.views[number] for number in sorted(trials)] if tried else []
    growth = covariance_scale(localizer, tried_views, run, with_depth=True)
    run.log.info("errors are %.1f times their sigmas", growth**0.5)

    kept_MXY = network.write(grid, [lesson.written for lesson in lessons])
    heights = _heights(place, lessons)
    tensors = _tensors(place, network, kept_MXY, heights, rest_variances, config)
    return {**tensors, "covariance_scale": torch.tensor(growth, dtype=torch.float64)}


def read_place(views: Sequence[View], config: AllocentricConfig, run: Run) -> Place:
    """Read the mapping views, find up, and lay out the grid.

    Raises:
        InputError: no view has depth, or none can be used; or one with depth has no known focal
            length.
    """
    with_depth = [view for view in views if view.depth_reader is not None]
    if not with_depth:
        raise InputError(
            f"none of the {len(views)} mapping views (from {views[0].name} on) has a depth map, "
            "and a spatial memory is made of what lies where: add depth, or map with sift or ace"
        )
    refuse_guessed_focals(with_depth, "what they see cannot be placed")
    step = max(len(with_depth) / config.max_views, 1.0)
    with_depth = [with_depth[int(number * step)] for number in range(int(len(with_depth) / step))]
    used, seen = _sightings(with_depth, config, run)
    cam_from_world = Rigid3d.stack([view.cam_from_world for view in used])
    rotation_V33 = cam_from_world.rotation
    normals = [
        sighting.normals_cam_M3.double() @ rotation_33
        for sighting, rotation_33 in zip(seen, rotation_V33, strict=True)
    ]
    up_3 = up_of_place(rotation_V33, _some(torch.cat(normals), _MAX_NORMALS))
    level_33 = level_from_world(up_3)
    ups_cam_V3 = rotation_V33 @ up_3
    centers_V3 = cam_from_world.inverse().translation @ level_33.T
    lessons = []
    for number, sighting in enumerate(seen):
        level_from_cam_33 = level_33 @ rotation_V33[number].T
        points_N3 = sighting.points_cam_N3.double()
        places_N3 = points_N3 @ level_from_cam_33.T + centers_V3[number]
        # A view that is asked does not know its own tilt.
        others = [other for other in range(len(seen)) if other != number] or [number]
        up_cam_3 = level_direction(ups_cam_V3[others], sighting.normals_cam_M3)
        heading_rad, _ = heading_of(level_from_cam_33)
        codes_NC = sighting.codes_NC
        lessons.append(
            Lesson(
                Written(codes_NC, places_N3),
                Asked(codes_NC, points_N3 @ leveled_from_cam(up_cam_3).T),
                centers_V3[number],
                float(heading_rad),
                float(torch.linalg.cross(up_cam_3, ups_cam_V3[number]).norm().asin()),
            )
        )
    grid = _grid(lessons, config)
    return Place(used, cam_from_world, level_33, grid, lessons)


def first_network(place: Place, config: AllocentricConfig, run: Run) -> SpatialMemory:
    """The network before it is trained: principal components, running means."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = new_network(config)
    codes_NC = torch.cat([lesson.written.codes_NC for lesson in place.lessons])
    network.start(_some(codes_NC, _MAX_CODES), float(place.eye_heights_V.median()))
    return network


def _sightings(
    views: Sequence[View], config: AllocentricConfig, run: Run
) -> tuple[list[View], list[Sighting]]:
    encoder = open_encoder(config.encoder, run)
    used, seen = [], []
    for view in run.progress.track(views, "reading"):
        try:
            image_3HW, depth_HW = view.read_image(), view.read_depth()
        except InputError as error:
            run.log.warning("left out: %s", error)
            continue
        assert depth_HW is not None
        sighting = sight(
            encoder,
            image_3HW,
            depth_HW,
            view.camera,
            config.short_side_px,
            config.max_range,
            run,
        )
        if sighting is None:
            run.log.warning("left out: view %s has no texture, or no depth in range", view.name)
            continue
        used.append(view)
        seen.append(sighting)
    if not seen:
        raise InputError(
            f"none of the {len(views)} mapping views with depth (from {views[0].name} on) can be "
            f"read and shows texture within {config.max_range:g} of the camera: look at them, are "
            "they black, or is the depth in another unit than metres?"
        )
    return used, seen


def _grid(lessons: Sequence[Lesson], config: AllocentricConfig) -> Grid:
    """A grid of what is seen and of where the cameras are."""
    places_N2 = torch.cat([lesson.written.places_N3[:, :2] for lesson in lessons])
    centers_V2 = torch.stack([lesson.place_3[:2] for lesson in lessons])
    ordered_N2 = places_N2.sort(0).values
    off = int(_OFF * len(ordered_N2))
    low_2 = torch.minimum(ordered_N2[off], centers_V2.amin(0)) - config.cell
    high_2 = torch.maximum(ordered_N2[-1 - off], centers_V2.amax(0)) + config.cell
    cell = max(config.cell, float((high_2 - low_2).max()) / config.max_cells)
    columns, rows = ((high_2 - low_2) / cell).ceil().long().clamp_min(3).tolist()
    radius = max(1, round(config.max_range / cell))
    return Grid(low_2, cell, (columns, rows), config.num_headings, radius)


def _tensors(
    place: Place,
    network: SpatialMemory,
    kept_MXY: Tensor,
    heights: Heights,
    rest_variances: Tensor,
    config: AllocentricConfig,
) -> dict[str, Tensor]:
    """All of a map; its covariances have yet to be tried."""
    grid = place.grid
    cameras = [view.camera for view in place.views]
    ratios = torch.tensor([float(cam.focal.mean()) / max(cam.width, cam.height) for cam in cameras])
    return {
        **encoder_record(config.encoder),
        "memory": kept_MXY.half().cpu(),
        "origin": grid.origin_2,
        "cell": torch.tensor(grid.cell, dtype=torch.float64),
        "grid": torch.tensor([grid.radius, grid.num_headings]),
        "heights": heights.share_ZXY.half(),
        "lowest": torch.tensor(heights.lowest, dtype=torch.float64),
        "level": torch.tensor(heights.step, dtype=torch.float64),
        "camera_range": torch.tensor(heights.camera_range, dtype=torch.float64),
        "level_from_world": place.level_from_world_33,
        "rotations": place.cam_from_world.rotation,
        "translations": place.cam_from_world.translation,
        "names": text_to_tensor([view.name for view in place.views]),
        "focal_ratio": ratios.median().double(),
        "rest_variances": rest_variances,
        "covariance_scale": torch.tensor(1.0, dtype=torch.float64),
        **{NETWORK + name: value.cpu() for name, value in network.state_dict().items()},
    }


def _heights(place: Place, lessons: Sequence[Lesson]) -> Heights:
    places_N3 = torch.cat([lesson.written.places_N3 for lesson in lessons])
    return Heights.of(place.grid, places_N3, place.eye_heights_V)


def _rest_variances(heights: Heights, grid: Grid, lessons: Sequence[Lesson]) -> Tensor:
    """(2,): of height and tilt, from views that are not in the heights."""
    first_2 = torch.tensor([(0.5 * grid.cell) ** 2, _FIRST_TILT_VARIANCE], dtype=torch.float64)
    squared = []
    for lesson in lessons:
        turn_33 = about_z(torch.tensor(lesson.heading_rad, dtype=torch.float64))
        points_N3 = lesson.asked.points_N3 @ turn_33.T
        found = heights.of_camera(grid, points_N3, lesson.place_3[:2])
        if found is not None:
            off = found - float(lesson.place_3[2])
            squared.append([off**2, lesson.tilt_error_rad**2])
    if not squared:
        return first_2
    usual_2 = torch.tensor([_MEDIAN_CHI_SQUARE_1, _MEDIAN_CHI_SQUARE_2], dtype=torch.float64)
    median_2 = torch.tensor(squared, dtype=torch.float64).median(0).values
    # What a few lucky views say must not make a pose certain.
    return (median_2 / usual_2).maximum(0.01 * first_2)


def _some(rows_NC: Tensor, count: int) -> Tensor:
    """Evenly spaced rows, about so many."""
    return rows_NC[:: max(1, len(rows_NC) // count)]
