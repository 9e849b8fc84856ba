"""Views in the order in which they were taken, and even samples of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from reloc.scenes.names import natural_key
from reloc.scenes.scene import View

Item = TypeVar("Item")


def in_order(views: Sequence[View]) -> list[View]:
    """By sequence, then time, then name with its numbers as numbers."""
    return sorted(
        views, key=lambda view: (view.sequence, view.timestamp_s or 0.0, natural_key(view.name))
    )


def evenly(items: Sequence[Item], max_count: int) -> list[Item]:
    """All items, or `max_count` of them at even distances."""
    if len(items) <= max_count:
        return list(items)
    return [items[index * len(items) // max_count] for index in range(max_count)]
