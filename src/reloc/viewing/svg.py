"""A matplotlib figure as SVG inside a page: in the page's colours, with ids of its own."""

from __future__ import annotations

import io
import re

from markupsafe import Markup, escape
from matplotlib.figure import Figure

# Matplotlib writes colours as literals. A figure is drawn in these, each of which stands for a
# variable of the page's style sheet: one drawing serves on light and dark ground, and on paper.
INK, FAINT, GRID, GROUND, BAD = "#0d0e01", "#0d0e02", "#0d0e03", "#0d0e04", "#0d0e05"
SERIES = ("#0d0e11", "#0d0e12", "#0d0e13", "#0d0e14", "#0d0e15", "#0d0e16")
_VARIABLES = {INK: "ink", FAINT: "faint", GRID: "grid", GROUND: "ground", BAD: "bad"} | {
    color: f"series-{index}" for index, color in enumerate(SERIES)
}


def to_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an `<svg>` element; its text is drawn, so it looks alike everywhere.

    Args:
        figure: drawn in the colours of this module.
        name: unique on the page: the ids of a figure begin with it.
        description: for who cannot see it.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    # What belongs to a file, not to an element of a page: prolog, comments, rules for all elements.
    svg = re.sub(
        r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<style.*?</style>|<metadata/>", "", svg, flags=re.S
    )
    view_box = re.search(r'viewBox="([^"]*)"', svg)
    body = re.search(r"<svg[^>]*>(.*)</svg>", svg, flags=re.S)
    if view_box is None or body is None:
        raise RuntimeError("matplotlib wrote no <svg> with a viewBox")
    content = _with_own_ids(body[1], name).replace("xlink:href", "href")
    content = re.sub("#[0-9a-f]{6}", lambda match: css_variable(match[0]), content)
    content = re.sub(r' (?:d|x|y)="[^"]*"', lambda match: _rounded(match[0]), content)
    # The description is escaped, the rest is matplotlib's.
    head = f'class="figure" role="img" aria-label="{escape(description)}" viewBox="{view_box[1]}"'
    return Markup(f"<svg {head}>{content.strip()}</svg>")


def _with_own_ids(svg: str, name: str) -> str:
    """Ids that are referred to are numbered behind `name`; the others go."""
    used = dict.fromkeys(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    numbers = {first or second: f"{name}-{index}" for index, (first, second) in enumerate(used)}
    svg = re.sub(
        r' id="([^"]+)"',
        lambda match: f' id="{numbers[match[1]]}"' if match[1] in numbers else "",
        svg,
    )
    return re.sub(
        r'href="#([^"]+)"|url\(#([^)]+)\)',
        lambda match: f'href="#{numbers[match[1]]}"' if match[1] else f"url(#{numbers[match[2]]})",
        svg,
    )


def _rounded(coordinates: str) -> str:
    """Hundredths of a point are finer than any screen."""
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(coordinates.split("\n")))


def css_variable(color: str) -> str:
    """What a colour of this module is in a style sheet; other colours stay as they are."""
    variable = _VARIABLES.get(color)
    return f"var(--{variable})" if variable else color
