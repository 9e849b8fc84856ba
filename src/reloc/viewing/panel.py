"""A drawing on the page, with what is said about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from reloc.viewing.svg import to_svg


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure before it is part of a page.

    Attributes:
        title: plain text.
        figure: in the colours of `svg`.
        caption: plain text; "" where the title says all.
    """

    title: str
    figure: Figure
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """A figure as it stands in the page.

    Attributes:
        title: plain text.
        svg: an `<svg>` element.
        caption: plain text.
    """

    title: str
    svg: Markup
    caption: str


def to_panels(drawings: Iterable[Drawing], key: str) -> list[Panel]:
    """Drawings as panels; `key` is unique on the page."""
    return [
        Panel(
            drawing.title, to_svg(drawing.figure, f"{key}-{index}", drawing.title), drawing.caption
        )
        for index, drawing in enumerate(drawings)
    ]
