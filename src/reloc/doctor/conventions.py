"""Tests the conventions of poses and cameras on the pixels.

Matches between views that were paired without their poses must lie on the epipolar lines that the poses
give. They are asked under the poses as given, and with each usual mistake undone, alone and together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from reloc.contract import Run
from reloc.doctor.bench import MIN_GAIN, Bench, Explanation
from reloc.doctor.diagnosis import ConventionTest, FocalEstimate, Trial, Verdict
from reloc.doctor.mistakes import (
    AS_GIVEN,
    AXES,
    INVERSE,
    TURNS,
    IntrinsicsMending,
    Mistake,
    pose_mendings,
)
from reloc.doctor.pairs import MatchedPairs, in_order, match_pairs
from reloc.doctor.times import Trajectories
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import turned_from_cam
from reloc.scenes.scene import Scene

# Probability that as many pairs get better by chance, from which on no mistake is named. Six pairs of
# six are just enough.
_MAX_CHANCE, _MIN_PAIRS = 0.02, 6
# Error over what the matches themselves allow, up to which poses are sound.
_SOUND_RATIO = 3.0
# Error over that of unrelated poses, from which on the poses say nothing about the images.
_LOST_RATIO = 0.3
# Unrelated poses must be this many times worse than the best ones, or the pairs cannot tell.
_MIN_POWER = 5.0
_FOCAL_FACTORS = tuple(0.4 * (2.5 / 0.4) ** (step / 40) for step in range(41))
# Poses that are tried with other intrinsics, too: wrong intrinsics mislead less than wrong poses.
_NUM_PROMISING = 8
_COARSE_FOCAL_FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.11, 1.25, 1.4, 1.6, 2.0)
_FINE_STEPS = tuple(1 + 0.0025 * step for step in range(-12, 13))
_SCALES = (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0, 3.0, 4.0)
_SHIFT_STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
_SHIFT_REFINEMENTS = (-0.75, -0.5, -0.25, 0.25, 0.5, 0.75)
_RESAMPLINGS = 200
# A view is astray where its error is this many times that of a usual pair, in at least so many pairs.
_STRAY_RATIO, _MIN_PAIRS_OF_VIEW = 10.0, 3


def check_conventions(scene: Scene, run: Run) -> ConventionTest:
    """Match views, and judge their poses and cameras. What the data is like raises nothing."""
    pairs = match_pairs(scene, run)
    if len(pairs) == 0:
        return ConventionTest("untested", _why_no_pairs(pairs), len(pairs.views))
    bench = Bench(pairs, Trajectories(in_order([*scene.mapping, *scene.queries])))
    is_across_P = pairs.is_query_V[pairs.views_2P].sum(0) == 1
    test = ConventionTest(
        verdict="untested",
        num_views=len(pairs.views),
        num_pairs=len(pairs),
        error_px=float(bench.given_px_P.median()),
        attainable_px=float(pairs.attainable_px_P.median()),
        unrelated_px=bench.unrelated_px(),
        across_px=float(bench.given_px_P[is_across_P].median()) if is_across_P.any() else None,
    )
    if len(pairs) < _MIN_PAIRS:
        reason = f"only {len(pairs)} pairs of views share enough to be compared"
        return replace(test, reason=reason)
    if test.unrelated_px < _MIN_POWER * test.attainable_px:
        return replace(test, reason="the views differ too little: almost any poses fit them")
    singles = _single_mistakes(bench)
    best = min([Explanation(), *singles, *_several_mistakes(bench)], key=bench.cost)
    likeliest = bench.trial(best)
    if likeliest.chance >= _MAX_CHANCE:
        best, likeliest = Explanation(), bench.trial(Explanation())
    verdict = _verdict(likeliest, test)
    fits = verdict != "unexplained"
    turned, stray = _stray_views(bench, best) if fits else ((), ())
    return replace(
        test,
        verdict=verdict,
        trials=tuple(sorted(map(bench.trial, singles), key=lambda trial: trial.error_px)),
        likeliest=likeliest if fits else None,
        focal=_focal(bench, best) if fits else None,
        stray_views=stray,
        turned_views=turned,
        depth=bench.median_depth(best) if verdict in ("sound", "rough") else None,
    )


def _why_no_pairs(pairs: MatchedPairs) -> str:
    if len(pairs.views) < 2:
        return f"{len(pairs.views)} images could be read, and it takes two"
    if pairs.num_textured < 2:
        return f"{pairs.num_textured} of {len(pairs.views)} images have texture to match"
    return f"no two of {len(pairs.views)} images share enough, or the picture hardly moves"


def _verdict(likeliest: Trial, test: ConventionTest) -> Verdict:
    if likeliest.mistakes:
        return "mistaken"
    if likeliest.error_px > _LOST_RATIO * test.unrelated_px:
        return "unexplained"
    return "sound" if likeliest.error_px <= _SOUND_RATIO * test.attainable_px else "rough"


def _single_mistakes(bench: Bench) -> list[Explanation]:
    """Each usual mistake by itself, at its best; and the inverse with the other axes."""
    by_mistakes: dict[tuple[Mistake, ...], list[Explanation]] = {}
    for mending in pose_mendings():
        if len(mending.mistakes) == 1 or mending.mistakes == (INVERSE, AXES):
            by_mistakes.setdefault(mending.mistakes, []).append(Explanation(mending))
    return [
        *(min(alike, key=bench.cost) for alike in by_mistakes.values()),
        _with_best_focal(bench, Explanation()),
        min(
            (Explanation(intrinsics=IntrinsicsMending("scale", factor)) for factor in _scales(bench)),
            key=bench.cost,
        ),
        *_with_best_shift(bench, Explanation()),
    ]


def _several_mistakes(bench: Bench) -> list[Explanation]:
    """The likeliest combination of poses and intrinsics, also with its best focal and shift."""
    poses = sorted(map(Explanation, pose_mendings()), key=bench.cost)[:_NUM_PROMISING]
    combined = [after for before in poses for after in _with_intrinsics(bench, before)]
    best = min([*poses, *combined], key=bench.cost)
    refined = _with_best_focal(bench, replace(best, intrinsics=AS_GIVEN))
    shifted = [after for before in (best, refined) for after in _with_best_shift(bench, before)]
    return [best, refined, *shifted]


def _with_intrinsics(bench: Bench, explanation: Explanation) -> list[Explanation]:
    focal = [IntrinsicsMending("focal", factor) for factor in _COARSE_FOCAL_FACTORS]
    scale = [IntrinsicsMending("scale", factor) for factor in _scales(bench)]
    return [replace(explanation, intrinsics=intrinsics) for intrinsics in (*focal, *scale)]


def _scales(bench: Bench) -> list[float]:
    return sorted({*_SCALES, bench.pairs.image_over_camera} - {1.0})


def _with_best_focal(bench: Bench, explanation: Explanation) -> Explanation:
    def tried(factors: Iterable[float]) -> Explanation:
        options = [
            replace(explanation, intrinsics=IntrinsicsMending("focal", factor))
            for factor in factors
        ]
        return min(options, key=bench.cost)

    rough = tried(_FOCAL_FACTORS).intrinsics.factor
    return tried(rough * step for step in _FINE_STEPS)


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
    """The best focal length under the poses of an explanation, and how far resampled pairs disagree."""
    poses_V = bench.mended_poses(explanation)
    centre = _with_best_focal(bench, replace(explanation, intrinsics=AS_GIVEN)).intrinsics.factor
    factors_F = centre * torch.tensor(_FINE_STEPS, dtype=torch.float64)
    # The square root keeps a few bad pairs from deciding.
    costs_FP = torch.stack(
        [
            bench.errors_under(poses_V, IntrinsicsMending("focal", float(factor))).sqrt()
            for factor in factors_F
        ]
    )
    generator = torch.Generator().manual_seed(0)
    draws_RP = torch.randint(
        costs_FP.shape[1], (_RESAMPLINGS, costs_FP.shape[1]), generator=generator
    )
    best_R = factors_F[costs_FP[:, draws_RP].mean(-1).argmin(0)]
    factor = float(factors_F[costs_FP.mean(-1).argmin()])
    focal_px = bench.common_focal_px()
    return FocalEstimate(
        factor=factor,
        low=float(best_R.quantile(0.05)),
        high=float(best_R.quantile(0.95)),
        focal_px=None if focal_px is None else factor * focal_px,
    )


def _stray_views(
    bench: Bench, explanation: Explanation
) -> tuple[tuple[tuple[str, Mistake], ...], tuple[str, ...]]:
    """Views that fit once they are turned, with the turn, and views that fit no neighbour."""
    poses_V = bench.mended_poses(explanation)
    errors_P = bench.errors_under(poses_V, explanation.intrinsics)
    too_much = _STRAY_RATIO * float(errors_P.median())
    turned, stray = [], []
    for index, view in enumerate(bench.pairs.views):
        own_P = (bench.pairs.views_2P == index).any(0)
        if own_P.sum() < _MIN_PAIRS_OF_VIEW or errors_P[own_P].median() < too_much:
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
