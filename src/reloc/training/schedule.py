"""Learning rates as functions of the step: a run that goes on needs no state for them."""

from __future__ import annotations

import math


def trapezoid(step: int, steps: int, peak: float, warm_up: int = 200) -> float:
    """Linear up over `warm_up` steps, constant, linear down to a hundredth in the last third."""
    falling = (steps - step) / max(steps / 3, 1)
    return peak * max(min((step + 1) / warm_up, 1.0, falling), 0.01)


def one_cycle(step: int, steps: int, peak: float, rise: float = 0.3) -> float:
    """From a 25th of the peak up in a share of the steps, then down to nearly 0; cosines.

    Source: Smith and Topin, "Super-convergence", 2019, with PyTorch's defaults.
    """
    start = 1 / 25
    done = step / max(steps - 1, 1)
    if done < rise:
        return peak * _between(start, 1.0, done / rise)
    return peak * _between(1.0, 1e-4 * start, (done - rise) / (1 - rise))


def _between(begin: float, end: float, share: float) -> float:
    """From `begin` to `end` along half a cosine."""
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
