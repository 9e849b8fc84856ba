"""Files as a bad disk or a broken copy leaves them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

EVERY_BIT = [False, pytest.param(True, marks=pytest.mark.slow)]


def flipped(content: bytes, *, every_bit: bool) -> Iterator[bytes]:
    """One bit changed. Of each byte: all eight, or the one that makes E of e and one more."""
    for position in range(len(content)):
        for bit in range(8) if every_bit else {5, position % 8}:
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            yield bytes(changed)
