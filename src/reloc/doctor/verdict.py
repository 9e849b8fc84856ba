"""Tests the conventions of poses and cameras on the pixels.

Matches between views that were paired without their poses must lie on the epipolar lines that the
poses give. They are asked under the poses as given, and with each usual mistake undone, alone and
together with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from reloc.contract import Run
from reloc.doctor.bench import MIN_GAIN, Bench, Explanation
from reloc.doctor.diagnosis import (
    ConventionTest,
    EpipolarErrors,
    FocalEstimate,
    Trial,
    Verdict,
)
from reloc.doctor.mistakes import (
    AS_GIVEN,
    AXES,
    INVERSE,
    TURNS,
    IntrinsicsMending,
    Mistake,
    pose_mendings,
)
from reloc.doctor.order import in_order
from reloc.doctor.pairs import MatchedPairs, match_pairs
from reloc.doctor.times import Trajectories
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import turned_from_cam
from reloc.input_error import InputError
from reloc.scenes.scene import Scene, View

# Probability that as many pairs get better by chance, from which on no mistake is named. Six pairs
# of six are just enough.
_MAX_CHANCE, _MIN_PAIRS = 0.02, 6
# Error over what the matches themselves allow, up to which poses are sound.
_SOUND_RATIO = 3.0
# Error over that of unrelated poses, from which on poses say nothing about the images.
_LOST_RATIO = 0.25
# Unrelated poses must be this many times worse than the best ones, or the pairs cannot tell.
_MIN_POWER = 5.0
# Poses that are tried with other intrinsics, too: wrong intrinsics mislead less than wrong poses.
_NUM_PROMISING = 8
# Multiples of the focal length: 8 % apart, then round the best of them, then round that.
_FOCAL_FACTORS = tuple(1.08**power for power in range(-11, 12))
_FINER_STEPS = (
    tuple(1 + 0.01 * step for step in range(-8, 9)),
    tuple(1 + 0.0025 * step for step in range(-5, 6)),
)
_SCALES = (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0, 3.0, 4.0)
_SHIFT_STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
_SHIFT_REFINEMENTS = (-0.75, -0.5, -0.25, 0.25, 0.5, 0.75)
_RESAMPLINGS = 200
# By image size: the colour camera of the first Kinect, of which many data sets are.
_USUAL_FOCALS_PX, _MAX_USUAL_LOSS = {(640, 480): 525.0}, 1.2
# A view is astray where its error is this many times the usual, over so many pairs or more.
_STRAY_RATIO, _MIN_PAIRS_OF_VIEW = 10.0, 3


def check_conventions(scene: Scene, run: Run) -> ConventionTest:
    """Match views, and judge their poses and cameras. What the data is like raises nothing."""
    return judge(scene, match_pairs(scene, run))


@contextmanager
def _one_thread() -> Iterator[None]:
    """So small tensors are done sooner by one thread than by several that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def judge(scene: Scene, pairs: MatchedPairs) -> ConventionTest:
    """Judge the poses and cameras of a scene by pairs of its views."""
    if len(pairs) == 0:
        return ConventionTest("untested", _why_no_pairs(pairs), len(pairs.views))
    bench = Bench(pairs, Trajectories(in_order([*scene.mapping, *scene.queries])))
    is_across_P = pairs.is_query_V[pairs.views_2P].sum(0) == 1
    errors = EpipolarErrors(
        given_px=float(bench.given_px_P.median()),
        attainable_px=float(pairs.attainable_px_P.median()),
        unrelated_px=bench.unrelated_px(),
        across_px=float(bench.given_px_P[is_across_P].median()) if is_across_P.any() else None,
    )
    test = ConventionTest("untested", "", len(pairs.views), len(pairs), errors)
    if len(pairs) < _MIN_PAIRS:
        share = "pair of views shares" if len(pairs) == 1 else "pairs of views share"
        return replace(test, reason=f"only {len(pairs)} {share} enough to be compared")
    if _all_alike(pairs.views):
        return replace(test, reason="all views have the same pose")
    if errors.unrelated_px < _MIN_POWER * errors.attainable_px:
        return replace(test, reason="the views differ too little: almost any poses fit them")
    singles = _single_mistakes(bench)
    best = min([Explanation(), *singles, *_several_mistakes(bench)], key=bench.cost)
    best = _with_usual_focal(bench, best)
    if not _convinces(bench.trial(best), errors):
        best = Explanation()
    verdict = _verdict(bench.trial(best), errors)
    # The best focal length may be the one that is given.
    trials = [bench.trial(single) for single in singles if single.num_mistakes]
    test = replace(
        test,
        verdict=verdict,
        trials=tuple(sorted(trials, key=lambda trial: trial.error_px)),
        likeliest=bench.trial(best),
    )
    if verdict == "unexplained":
        return test
    turned, stray = _stray_views(bench, best)
    # Depths mean something only under poses that need no mending.
    depth, depth_ratio = _depths(bench) if verdict != "mistaken" else (None, None)
    return replace(
        test,
        focal=_focal(bench, best) if best.intrinsics.kind == "focal" else None,
        turned_views=turned,
        stray_views=stray,
        depth=depth,
        depth_ratio=depth_ratio,
    )


def _all_alike(views: Sequence[View]) -> bool:
    matrices_V44 = torch.stack([view.cam_from_world.matrix for view in views])
    return bool((matrices_V44 == matrices_V44[0]).all())


def _why_no_pairs(pairs: MatchedPairs) -> str:
    if len(pairs.views) < 2:
        return f"{len(pairs.views)} images could be read, and it takes two"
    if pairs.num_textured < 2:
        return f"{pairs.num_textured} of {len(pairs.views)} images have texture to match"
    return f"no two of {len(pairs.views)} images share enough, or the picture hardly moves"


def _convinces(trial: Trial, errors: EpipolarErrors) -> bool:
    """Whether it explains the errors: of hundreds of tries the best is always somewhat better."""
    return trial.chance < _MAX_CHANCE and trial.error_px < _LOST_RATIO * errors.unrelated_px


def _verdict(likeliest: Trial, errors: EpipolarErrors) -> Verdict:
    if likeliest.mistakes:
        return "mistaken"
    if errors.given_px > _LOST_RATIO * errors.unrelated_px:
        return "unexplained"
    return "sound" if errors.given_px <= _SOUND_RATIO * errors.attainable_px else "rough"


def _single_mistakes(bench: Bench) -> list[Explanation]:
    """Each usual mistake by itself, at its best; and the inverse with the other axes."""
    by_mistakes: dict[tuple[Mistake, ...], list[Explanation]] = {}
    for mending in pose_mendings():
        if len(mending.mistakes) == 1 or mending.mistakes == (INVERSE, AXES):
            by_mistakes.setdefault(mending.mistakes, []).append(Explanation(mending))
    return [
        *(min(alike, key=bench.cost) for alike in by_mistakes.values()),
        _with_best_focal(bench, Explanation()),
        min(_with_scales(bench, Explanation()), key=bench.cost),
        *_with_best_shift(bench, Explanation()),
    ]


def _several_mistakes(bench: Bench) -> list[Explanation]:
    """The likeliest combination of poses and intrinsics, also with its best focal and shift."""
    promising = sorted(map(Explanation, pose_mendings()), key=bench.cost)[:_NUM_PROMISING]
    combined = list(promising)
    for poses in promising:
        combined += _with_focals(poses, _FOCAL_FACTORS) + _with_scales(bench, poses)
    best = min(combined, key=bench.cost)
    refined = _with_best_focal(bench, replace(best, intrinsics=AS_GIVEN))
    shifted = [after for before in (best, refined) for after in _with_best_shift(bench, before)]
    return [best, refined, *shifted]


def _with_scales(bench: Bench, explanation: Explanation) -> list[Explanation]:
    factors = {*_SCALES, bench.pairs.image_over_camera} - {1.0}
    return [
        replace(explanation, intrinsics=IntrinsicsMending("scale", factor))
        for factor in sorted(factors)
    ]


def _with_focals(explanation: Explanation, factors: Iterable[float]) -> list[Explanation]:
    return [
        replace(explanation, intrinsics=IntrinsicsMending("focal", factor)) for factor in factors
    ]


def _with_best_focal(bench: Bench, explanation: Explanation) -> Explanation:
    factors_F, costs_FP = _focal_costs(bench, explanation)
    best = float(factors_F[costs_FP.mean(-1).argmin()])
    return _with_focals(explanation, [best])[0]


def _focal_costs(bench: Bench, explanation: Explanation) -> tuple[Tensor, Tensor]:
    """Multiples (F,) of the focal length, and what each costs each pair (F, P).

    The cost is the square root of the error: its mean is steadier than the median of the errors,
    and is not decided by a few bad pairs.
    """
    tried: dict[float, Tensor] = {}

    def add(factors: Iterable[float]) -> None:
        for option in _with_focals(explanation, factors):
            tried[option.intrinsics.factor] = bench.errors_px(option).sqrt()

    add(_FOCAL_FACTORS)
    for steps in _FINER_STEPS:
        best = min(tried, key=lambda factor: float(tried[factor].mean()))
        add(best * step for step in steps)
    return torch.tensor(list(tried), dtype=torch.float64), torch.stack(list(tried.values()))


def _with_best_shift(bench: Bench, explanation: Explanation) -> list[Explanation]:
    """With the best shift; nothing where no sequence has two views."""
    step = bench.trajectories.step
    if not step:
        return []

    def tried(shifts: Iterable[float]) -> Explanation:
        return min([replace(explanation, shift=shift) for shift in shifts], key=bench.cost)

    best = tried(sign * steps * step for steps in _SHIFT_STEPS for sign in (1, -1))
    if bench.trajectories.unit == "s":
        best = tried([best.shift, *(best.shift + part * step for part in _SHIFT_REFINEMENTS)])
    return [best]


def _focal(bench: Bench, explanation: Explanation) -> FocalEstimate:
    """The best focal length under the poses of an explanation, and what resampled pairs say."""
    factors_F, costs_FP = _focal_costs(bench, explanation)
    num_pairs = costs_FP.shape[1]
    generator = torch.Generator().manual_seed(0)
    draws_RP = torch.randint(num_pairs, (_RESAMPLINGS, num_pairs), generator=generator)
    best_R = factors_F[costs_FP[:, draws_RP].mean(-1).argmin(0)]
    factor = float(factors_F[costs_FP.mean(-1).argmin()])
    focal_px = bench.common_focal_px()
    return FocalEstimate(
        factor=factor,
        low=float(best_R.quantile(0.05)),
        high=float(best_R.quantile(0.95)),
        focal_px=None if focal_px is None else factor * focal_px,
    )


def _with_usual_focal(bench: Bench, explanation: Explanation) -> Explanation:
    """With the usual focal length of such images, where one was found that fits hardly better."""
    sizes = {(view.camera.width, view.camera.height) for view in bench.pairs.views}
    usual_px = _USUAL_FOCALS_PX.get(sizes.pop()) if len(sizes) == 1 else None
    given_px, intrinsics = bench.common_focal_px(), explanation.intrinsics
    if not (usual_px and given_px) or intrinsics.kind == "scale" or intrinsics == AS_GIVEN:
        return explanation
    usual = replace(explanation, intrinsics=IntrinsicsMending("focal", usual_px / given_px))
    is_as_good = bench.cost(usual) < _MAX_USUAL_LOSS * bench.cost(explanation)
    return usual if is_as_good else explanation


def _depths(bench: Bench) -> tuple[float | None, float | None]:
    """Median depth of the matches, and of the ratio of the depth maps to it; None where unknown."""
    triangulated_PM = bench.depths()
    stored_PM = torch.full_like(triangulated_PM, torch.nan)
    for index, view in enumerate(bench.pairs.views):
        own_P = bench.pairs.views_2P[0] == index
        if view.depth_reader is None or not own_P.any():
            continue
        try:
            depth_HW = view.depth_reader()
        except InputError:
            continue
        height, width = depth_HW.shape
        columns, rows = bench.pairs.pixels_2PM2[0, own_P].long().unbind(-1)
        depth = depth_HW[rows.clamp(0, height - 1), columns.clamp(0, width - 1)].double()
        stored_PM[own_P] = torch.where(depth > 0, depth, torch.nan)
    medians = triangulated_PM.nanmedian(), (stored_PM / triangulated_PM).nanmedian()
    depth, ratio = (float(median) if median.isfinite() else None for median in medians)
    return depth, ratio


def _stray_views(
    bench: Bench, explanation: Explanation
) -> tuple[tuple[tuple[str, Mistake], ...], tuple[str, ...]]:
    """Views that fit once they are turned, each with its turn, and views that fit no neighbour."""
    poses_V = bench.mended_poses(explanation)
    errors_P = bench.errors_px(explanation)
    too_much = _STRAY_RATIO * float(errors_P.median())
    turned, stray = [], []
    for index, view in enumerate(bench.pairs.views):
        own_P = (bench.pairs.views_2P == index).any(0)
        if own_P.sum() < _MIN_PAIRS_OF_VIEW or errors_P[own_P].median() <= too_much:
            continue
        for quarter_turns, mistake in TURNS.items():
            matrices_V44 = poses_V.matrix.clone()
            matrices_V44[index] = (turned_from_cam(quarter_turns) @ poses_V[index]).matrix
            tried_P = bench.errors_under(Rigid3d.from_matrix(matrices_V44), explanation.intrinsics)
            if tried_P[own_P].median() < too_much / MIN_GAIN:
                turned.append((view.name, mistake))
                break
        else:
            stray.append(view.name)
    return tuple(turned), tuple(stray)
