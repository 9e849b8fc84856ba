"""The figures of the page. Arrays in, drawings out: nothing is computed here but where to draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from reloc.viewing.svg import BAD, FAINT, GRID, GROUND, INK, SERIES, css_variable
from reloc.viewing.trajectory import Trajectory

Array = NDArray[np.float64]

_PANEL_INCHES = (4.4, 3.1)
_MAP_INCHES = 6.6
_FONT_PT = 8.0
_MARKERS = "osD^vP"
_HALO = withStroke(linewidth=2.5, foreground=GROUND)
_DASHES: Sequence[Sequence[float]] = (
    (),
    (5, 1.6),
    (1.3, 1.3),
    (6, 1.6, 1.3, 1.6),
    (9, 2),
    (3, 1, 1, 1),
)


@dataclass(frozen=True)
class Style:
    """How one method is drawn, everywhere on the page: never by its colour alone.

    Attributes:
        color: of `svg.SERIES`.
        dash: lengths on and off, in line widths; empty for a full line.
        marker: of matplotlib.
    """

    color: str
    dash: Sequence[float]
    marker: str

    @staticmethod
    def of(index: int) -> Style:
        """Of the method in place `index`. Thirty-six differ."""
        turn = index % 6 + index // 6
        return Style(SERIES[index % 6], _DASHES[turn % 6], _MARKERS[turn % 6])

    @property
    def css_color(self) -> str:
        """For the page's own drawings."""
        return css_variable(self.color)


def error_curves(errors: Sequence[tuple[Style, Array]], label: str) -> Figure:
    """The share of queries with an error below x, for each method. Infinite: never below."""
    figure, axes = _panel(label, "queries below (%)")
    finite = np.concatenate([values[np.isfinite(values)] for _, values in errors])
    low, high = _log_limits(finite)
    for style, values in errors:
        reached = np.sort(values[values <= high])
        share = 100 * np.arange(len(reached) + 1) / len(values)
        x = np.concatenate([[low], np.maximum(reached, low), [high]])
        y = np.concatenate([share, share[-1:]])
        axes.step(
            x, y, where="post", color=style.color, dashes=style.dash or (None, None), linewidth=1.6
        )
    _log(axes, "x", low, high)
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 20))
    return figure


def tradeoff(
    points: Sequence[tuple[str, Style, float, float]], x_label: str, y_label: str
) -> Figure:
    """A cost along x against an error along y, a mark for each method: lower left is better."""
    figure, axes = _panel(x_label, y_label)
    low, high = _log_limits(np.array([x for _, _, x, _ in points]), margin=1.6)
    for name, style, x, y in points:
        axes.plot(
            [x], [y], style.marker, color=style.color, markersize=8, markeredgecolor=GROUND,
            markeredgewidth=0.8,
        )  # fmt: skip
        leftwards = x > math.sqrt(low * high)
        axes.annotate(
            name, (x, y), xytext=(-8 if leftwards else 8, 0), textcoords="offset points",
            ha="right" if leftwards else "left", va="center", fontsize=_FONT_PT, color=INK,
            parse_math=False, path_effects=[_HALO],
        )  # fmt: skip
    _log(axes, "x", low, high)
    _log(axes, "y", *_log_limits(np.array([y for *_, y in points]), margin=1.6))
    return figure


def error_against(
    x: Array, x_high: float, error: Array, style: Style, x_label: str, y_label: str
) -> Figure:
    """The error of each query against what the method said of it, from 0 to `x_high`.

    `x` and `error` are (N,) and finite; what has no place on the axes is drawn at their edge.
    """
    figure, axes = _panel(x_label, y_label)
    low, high = _log_limits(error, margin=1.4)
    _dots(axes, x, np.clip(error, low, high), style)
    _log(axes, "y", low, high)
    axes.set_xlim(0, 1.02 * x_high)
    return figure


def calibration(sigma: Array, error: Array, style: Style, x_label: str, y_label: str) -> Figure:
    """The error of each query against the one its covariance expects: (N,) each, finite.

    On the line the two are equal; above it the method was too sure. What has no place on the axes,
    an error of exactly 0 say, is drawn at their edge.
    """
    figure, axes = _panel(x_label, y_label)
    low, high = _log_limits(np.concatenate([sigma, error]), margin=1.4)
    axes.plot([low, high], [low, high], color=FAINT, linewidth=1)
    _dots(axes, np.clip(sigma, low, high), np.clip(error, low, high), style)
    _log(axes, "x", low, high)
    _log(axes, "y", low, high)
    return figure


def cameras_from_above(cameras: Trajectory, style: Style) -> tuple[Figure, int]:
    """The mapping path, true and estimated queries, and the errors between them.

    Returns:
        The figure, and how many estimates lie outside it; these are drawn at its edge.
    """
    known_K2 = np.concatenate([cameras.mapping, cameras.truth])
    low_2, high_2 = known_K2.min(0), known_K2.max(0)
    margin = 0.07 * float(max(high_2 - low_2)) or 1.0
    width, height = high_2 - low_2 + 2 * margin
    # Neither a strip in which nothing can be seen, nor a tower that fills the screen.
    height = max(height, 0.25 * width)
    width = max(width, height / 0.75)
    figure = Figure(figsize=(_MAP_INCHES, _MAP_INCHES * height / width))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    corner_2 = np.array([width, height]) / 2
    (left, bottom), (right, top) = (low_2 + high_2) / 2 - corner_2, (low_2 + high_2) / 2 + corner_2
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)

    axes.add_collection(LineCollection(list(cameras.paths), colors=GRID, linewidths=1.2))
    axes.plot(
        *cameras.mapping.T, "o", color=FAINT, markersize=3.2 * _crowded(len(cameras.mapping)),
        markeredgewidth=0,
    )  # fmt: skip
    declined_M = np.isnan(cameras.estimate[:, 0])
    edge = 0.008 * width
    drawn_M2 = np.clip(cameras.estimate, (left + edge, bottom + edge), (right - edge, top - edge))
    outside_M = ~declined_M & (drawn_M2 != cameras.estimate).any(1)
    segments = np.stack([cameras.truth, drawn_M2], axis=1)[~declined_M]
    axes.add_collection(LineCollection(list(segments), colors=BAD, linewidths=0.8, alpha=0.8))
    size = _crowded(len(declined_M))

    def marks(points_N2: Array, marker: str, size_pt: float, color: str, edge_pt: float) -> None:
        axes.plot(
            *points_N2.T, marker, markersize=size_pt, color=color, markerfacecolor="none",
            markeredgewidth=edge_pt,
        )  # fmt: skip

    marks(cameras.truth, "o", 5.0 * size, INK, 0.7 * size)
    axes.plot(
        *drawn_M2[~declined_M & ~outside_M].T, "o", color=style.color, markersize=2.8 * size,
        markeredgewidth=0,
    )  # fmt: skip
    marks(drawn_M2[outside_M], "s", 4.0, BAD, 1.0)
    marks(cameras.truth[declined_M], "x", 5.0, BAD, 1.2)
    # Letters of neighbours stand in different corners of their marks.
    corners = itertools.cycle([(6, 6), (-6, -6), (-6, 6), (6, -6)])
    for (row, letter), corner in zip(cameras.labels.items(), corners, strict=False):
        axes.annotate(
            letter, cameras.truth[row], xytext=corner, textcoords="offset points", ha="center",
            va="center", fontsize=_FONT_PT, color=INK, weight="bold", path_effects=[_HALO],
        )  # fmt: skip
    _scale_bar(axes, cameras.unit)
    return figure, int(outside_M.sum())


def _crowded(count: int) -> float:
    """Frames of a video stand close together: smaller marks keep them apart."""
    return min(1.0, max(0.5, math.sqrt(80 / max(count, 1))))


def _panel(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_PANEL_INCHES)
    # Fixed, so that panels side by side have their axes side by side.
    axes = figure.add_axes((0.175, 0.135, 0.81, 0.845))
    axes.set_xlabel(x_label, fontsize=_FONT_PT, color=INK, parse_math=False)
    axes.set_ylabel(y_label, fontsize=_FONT_PT, color=INK, parse_math=False)
    axes.yaxis.set_label_coords(-0.17, 0.5)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=_FONT_PT, width=0.7)
    axes.tick_params(which="minor", length=2)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=FAINT, linewidth=0.7)
    return figure, axes


def _dots(axes: Axes, x: Array, y: Array, style: Style) -> None:
    axes.plot(
        x, y, "o", color=style.color, markersize=4, markeredgewidth=0, alpha=0.7, clip_on=False
    )


def _log(axes: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis from `low` to `high`, labelled 0.1, 1, 10."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    decades = math.log10(high / low)
    # Within two decades, powers of ten alone would leave an axis with a label or two.
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _log_limits(values: Array, margin: float = 1.0) -> tuple[float, float]:
    """Limits of a logarithmic axis round most positive values; at least a factor of four wide."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return 0.1, 10.0
    # A few answers that are nearly perfect, or far off, must not squeeze the rest into a corner.
    middle = float(np.median(positive))
    low = max(float(positive.min()), 1e-3 * middle) / margin
    high = min(float(positive.max()), 1e4 * middle) * margin
    widen = math.sqrt(max(4 * low / high, 1.0))
    return low / widen, high * widen


def _scale_bar(axes: Axes, unit: str) -> None:
    """A bar of a round length, about a fifth of the width, in the lower left corner."""
    left, right, bottom = *axes.get_xlim(), axes.get_ylim()[0]
    target = (right - left) / 5
    power = 10.0 ** math.floor(math.log10(target))
    length = max(step * power for step in (1, 2, 5) if step * power <= target)
    x, y = left + 0.02 * (right - left), bottom + 0.025 * (right - left)
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2, solid_capstyle="butt")
    centimetres = unit == "m" and length < 1
    text = f"{100 * length:g} cm" if centimetres else f"{length:g} {unit}"
    axes.annotate(
        text, (x + length / 2, y), xytext=(0, 4), textcoords="offset points", ha="center",
        fontsize=_FONT_PT, color=INK,
    )  # fmt: skip
