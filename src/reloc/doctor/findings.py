"""What a person should know, in sentences, and what mends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reloc.doctor.diagnosis import ConventionTest, Finding, Overlap, Severity, Survey
from reloc.doctor.mistakes import FOCAL_LENGTH
from reloc.doctor.survey import LookedAt, blurred, duplicates
from reloc.geometry.camera import Camera
from reloc.scenes.scene import Scene

_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
_BLURRED_SHARE = 0.25
# The principal point is taken to be another image's where it is further from the middle than this.
_MAX_OFF_CENTER = 0.2
# Error between mapping views and queries, over that of all pairs, of two worlds.
_TWO_WORLDS_RATIO = 5.0
# Metres between which the median depth of photos of a place lies.
_PLAUSIBLE_DEPTHS_M = (0.05, 500.0)
_MAX_DEPTH_RATIO = 1.25
_DEPTH_CAMERA_FOCAL_PX = 585.0


def find_all(
    scene: Scene,
    survey: Survey,
    images: Sequence[LookedAt],
    test: ConventionTest,
    overlap: Overlap | None,
) -> tuple[Finding, ...]:
    """All findings, the gravest first."""
    findings = [
        *_of_conventions(scene, survey, test),
        *_of_images(images),
        *_of_cameras(images, survey, test),
        *_of_places(scene, test, overlap),
        *(Finding("note", note) for note in scene.notes),
    ]
    return tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity]))


def _of_conventions(scene: Scene, survey: Survey, test: ConventionTest) -> Iterator[Finding]:
    errors, likeliest = test.errors, test.likeliest
    if errors is None or likeliest is None:
        yield Finding("warning", f"poses and cameras cannot be tested on the images: {test.reason}")
        return
    measured = f"the median epipolar error is {errors.given_px:.2f} px"
    if test.verdict == "unexplained":
        yield Finding(
            "error",
            f"the poses do not fit the images, and no usual mistake explains it: {measured}, and "
            f"that of poses of other images is {errors.unrelated_px:.2f} px",
            mending="look whether images and poses are joined by the right names",
        )
    elif test.verdict == "rough":
        yield Finding(
            "warning",
            f"no usual mistake is found, but the poses are rough: {measured}, where the matches "
            f"would allow {errors.attainable_px:.2f} px",
        )
    mended = f"{errors.given_px:.2f} px of epipolar error fall to {likeliest.error_px:.2f} px"
    for mistake in likeliest.mistakes:
        what, mending = mistake.what, mistake.mending
        if mistake.name == FOCAL_LENGTH and _is_of_depth_camera(scene):
            what += "; 585 px is the depth camera's, whose poses may have been taken, too"
            mending = f"--ground-truth sfm (or d-slam), else {mending}"
        # A guess is not taken for the truth by methods that find the focal length themselves.
        guessed = mistake.name == FOCAL_LENGTH and survey.num_guessed_focals > 0
        severity: Severity = "warning" if guessed else "error"
        yield Finding(severity, f"{what} (mended, {mended})", mending=mending)


def _is_of_depth_camera(scene: Scene) -> bool:
    """Whether the cameras of a scene of Kinect videos have the focal length of its depth camera."""
    return scene.layout == "7scenes" and all(
        abs(float(view.camera.focal[0]) - _DEPTH_CAMERA_FOCAL_PX) < 1 for view in scene.mapping
    )


def _of_images(images: Sequence[LookedAt]) -> Iterator[Finding]:
    broken = [image for image in images if image.problem]
    if broken:
        yield Finding(
            "error",
            f"{_count(broken, 'image cannot', 'images cannot')} be read: {broken[0].problem}",
            _names(broken),
            "replace or remove them",
        )
    pairs = duplicates(images)
    leaks = [later for first, later in pairs if first.is_query != later.is_query]
    if leaks:
        yield Finding(
            "error",
            f"{_count(leaks, 'query is', 'queries are')}, pixel for pixel, a mapping image",
            _names(leaks),
            "take them out of the map, or do not ask them",
        )
    twice = [later for first, later in pairs if first.is_query == later.is_query]
    if twice:
        yield Finding(
            "note",
            f"{_count(twice, 'image has', 'images have')} the pixels of another: a copy, or "
            "repeated by the camera",
            _names(twice),
        )
    soft = blurred(images, _BLURRED_SHARE)
    if soft:
        yield Finding(
            "note",
            f"{_count(soft, 'image is', 'images are')} blurred: less than {_BLURRED_SHARE:.0%} as "
            "sharp as is usual in the sequence",
            tuple(soft),
        )


def _of_cameras(
    images: Sequence[LookedAt], survey: Survey, test: ConventionTest
) -> Iterator[Finding]:
    for (size, camera_size), misfits in _misfits(images).items():
        scale = size[0] / camera_size[0]
        if abs(size[1] / camera_size[1] / scale - 1) < 0.02:
            mending = f"--intrinsics-scale {scale:.4g}"
        elif size == camera_size[::-1]:
            mending = "turn these images by 90 degrees, or give the intrinsics of the turned image"
        else:
            mending = (
                "give the intrinsics of these images: these were cropped, or are another camera's"
            )
        yield Finding(
            "error",
            f"{_count(misfits, 'image has', 'images have')} {size[0]}x{size[1]} pixels, but "
            f"intrinsics for {camera_size[0]}x{camera_size[1]}",
            _names(misfits),
            mending,
        )
    off_center = [image for image in images if _off_center(image.view.camera) > _MAX_OFF_CENTER]
    if off_center:
        yield Finding(
            "warning",
            f"{_count(off_center, 'camera has its', 'cameras have their')} principal point far "
            "from the middle: it may be of another size, or of the image before it was cropped",
            _names(off_center),
        )
    if survey.num_guessed_focals:
        fits = ""
        if test.focal is not None and test.focal.focal_px is not None:
            fits = f"; {test.focal.focal_px:.0f} px fits the poses"
        yield Finding(
            "note",
            f"the focal length of {survey.num_guessed_focals} views is only a guess{fits}",
            mending=f"--focal {test.focal.focal_px:.0f}" if fits and test.focal else "",
        )


def _misfits(
    images: Sequence[LookedAt],
) -> dict[tuple[tuple[int, int], tuple[int, int]], list[LookedAt]]:
    """Images whose size is not their camera's, by both."""
    found: dict[tuple[tuple[int, int], tuple[int, int]], list[LookedAt]] = {}
    for image in images:
        camera_size = image.view.camera.width, image.view.camera.height
        if image.size is not None and image.size != camera_size:
            found.setdefault((image.size, camera_size), []).append(image)
    return found


def _off_center(camera: Camera) -> float:
    """How far the principal point is from the middle, as a share of the image's size."""
    x, y = camera.principal_point.tolist()
    return max(abs(x / camera.width - 0.5), abs(y / camera.height - 0.5))


def _of_places(scene: Scene, test: ConventionTest, overlap: Overlap | None) -> Iterator[Finding]:
    fits = test.verdict in ("sound", "rough")
    errors = test.errors
    if (
        fits
        and errors is not None
        and errors.across_px is not None
        and errors.across_px > _TWO_WORLDS_RATIO * errors.given_px
    ):
        yield Finding(
            "error",
            "mapping views and queries do not share one world: the median epipolar error between "
            f"them is {errors.across_px:.1f} px, that of all pairs {errors.given_px:.2f} px",
            mending="take both from one reconstruction, or one ground truth",
        )
    if test.turned_views:
        yield Finding(
            "warning",
            f"{_count(test.turned_views, 'view fits', 'views fit')} once the image is turned "
            f"({test.turned_views[0][1].name}), of {test.num_views} looked at",
            tuple(name for name, _ in test.turned_views),
            test.turned_views[0][1].mending,
        )
    if test.stray_views:
        yield Finding(
            "warning",
            f"{_count(test.stray_views, 'view fits', 'views fit')} none of the neighbours, of "
            f"{test.num_views} looked at",
            test.stray_views,
            "remove them if they are wrong",
        )
    ratio = test.depth_ratio
    if ratio is not None and not 1 / _MAX_DEPTH_RATIO < ratio < _MAX_DEPTH_RATIO:
        yield Finding(
            "warning",
            f"depth maps give {ratio:.3g} times the depth that the poses give",
            mending="look up the unit of the depth maps, and that of the poses",
        )
    if not scene.metric:
        yield Finding("note", "lengths are in arbitrary units, not in metres")
    elif fits and test.depth is not None:
        low, high = _PLAUSIBLE_DEPTHS_M
        if not low < test.depth < high:
            yield Finding(
                "warning",
                "the poses are said to be in metres, but what the images show would be "
                f"{test.depth:.3g} m away",
                mending="--metric False, or give the poses in metres",
            )
    if overlap is not None and overlap.little_seen:
        yield Finding(
            "warning",
            f"no mapping view shows more than a third of {len(overlap.little_seen)} of "
            f"{overlap.num_queries} queries",
            overlap.little_seen,
            "map views that see what they see, or expect them to fail",
        )


def _count(items: Sequence[object], one: str, many: str) -> str:
    return f"{len(items)} {one if len(items) == 1 else many}"


def _names(images: Sequence[LookedAt]) -> tuple[str, ...]:
    return tuple(image.view.name for image in images)
