"""What is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pytest

from reloc.viewing import figures
from reloc.viewing.figures import Style
from reloc.viewing.svg import SERIES, to_svg
from reloc.viewing.trajectory import Trajectory


def test_a_curve_ends_at_the_share_that_was_answered() -> None:
    errors = np.array([0.5, 0.1, 3.0, np.inf, np.inf])
    figure = figures.error_curves([(Style.of(0), errors)], "error")
    axes = figure.axes[0]
    x, y = (np.asarray(values) for values in axes.lines[0].get_data())
    assert y[-1] == pytest.approx(60.0)
    for limit in (0.2, 0.6, 2.9):
        # The curve steps after its points: its height at x is that of the last point before.
        height = y[np.searchsorted(x, limit, side="right") - 1]
        assert height == pytest.approx(100 * np.mean(errors < limit))


def test_an_answer_far_off_is_not_counted_before_its_error() -> None:
    errors = np.array([1.0, 1.1, 1.2, 1e9])
    figure = figures.error_curves([(Style.of(0), errors)], "error")
    axes = figure.axes[0]
    _, y = (np.asarray(values) for values in axes.lines[0].get_data())
    assert axes.get_xlim()[1] < 1e9 and y[-1] == pytest.approx(75.0)


def test_no_dot_is_lost() -> None:
    """A point beyond the axes is drawn at their edge."""
    error = np.array([0.0, 1.0, 1.1, 1e9])
    for figure in (
        figures.error_against(np.arange(4.0), 3.0, error, Style.of(0), "x", "y"),
        figures.calibration(np.ones(4), error, Style.of(0), "x", "y"),
    ):
        axes = figure.axes[0]
        drawn = np.asarray(axes.lines[-1].get_ydata(), float)
        low, high = axes.get_ylim()
        assert len(drawn) == 4 and (drawn >= low).all() and (drawn <= high).all()


def test_styles_differ_without_colour() -> None:
    styles = [Style.of(index) for index in range(36)]
    assert len({(s.color, tuple(s.dash), s.marker) for s in styles}) == 36
    assert len({tuple(s.dash) for s in styles[:6]}) == len({s.marker for s in styles[:6]}) == 6


def square(estimate: np.ndarray) -> Trajectory:
    corners = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    return Trajectory([corners], corners, corners / 2, estimate, {0: "A"}, "m", level=True)


def test_lengths_are_equal_along_both_axes_and_the_bar_is_true() -> None:
    figure, num_outside = figures.cameras_from_above(square(square_truth()), Style.of(0))
    axes = figure.axes[0]
    (x0, y0), (x1, _), (_, y1) = (axes.transData.transform(p) for p in ((0, 0), (1, 0), (0, 1)))
    assert x1 - x0 == pytest.approx(y1 - y0)
    bar = next(line for line in axes.lines if line.get_linewidth() == 2)
    length, unit = axes.texts[-1].get_text().split()
    in_metres = float(length) / {"m": 1, "cm": 100}[unit]
    assert float(np.ptp(np.asarray(bar.get_xdata()))) == pytest.approx(in_metres)
    assert num_outside == 0


def square_truth() -> np.ndarray:
    return np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])


def test_estimates_outside_are_counted_and_declined_ones_are_not() -> None:
    estimate = square_truth()
    estimate[0] = np.nan
    estimate[1] = [1e6, -1e6]
    figure, num_outside = figures.cameras_from_above(square(estimate), Style.of(0))
    assert num_outside == 1
    axes = figure.axes[0]
    left, right = axes.get_xlim()
    drawn = np.concatenate([np.asarray(line.get_xdata(), float) for line in axes.lines])
    assert np.nanmin(drawn) >= left and np.nanmax(drawn) <= right


def test_svg_has_the_colours_of_the_page_only() -> None:
    figure = figures.error_curves([(Style.of(1), np.array([1.0, 2.0]))], "a < b & $c$")
    svg = to_svg(figure, "f", 'said "so"')
    assert "var(--series-1)" in svg and SERIES[1] not in svg
    assert 'aria-label="said &#34;so&#34;"' in svg
    assert "<style" not in svg and "<!--" not in svg and "xlink" not in svg
