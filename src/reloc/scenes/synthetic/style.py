"""The materials of one room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reloc.scenes.synthetic.surfaces import Material
from reloc.scenes.synthetic.textures import NUM_LABELS, NUM_SPINES, Layers

# How the textures of a kind are laid: metres of one repeat (None: stretched), mirroring, wear, grain.
_LAID: dict[str, tuple[float | None, float, float, bool]] = {
    "plaster": (1.6, 0.0, 0.6, False),
    "ceiling": (2.3, 0.0, 0.4, False),
    "wallpaper": (1.1, 0.0, 0.7, False),
    "brick": (1.4, 0.0, 0.9, False),
    "tiles": (1.2, 0.04, 0.5, False),
    "wood": (0.75, 0.015, 1.0, True),
    "planks": (1.25, 0.02, 1.0, False),
    "parquet": (1.2, 0.03, 1.0, False),
    "stone": (1.6, 0.02, 1.0, False),
    "fabric": (0.7, 0.0, 0.5, False),
    "rug": (None, 0.0, 0.6, False),
    "carpet": (1.0, 0.0, 1.0, False),
    "painting": (None, 0.0, 0.2, False),
    "poster": (None, 0.02, 0.2, False),
    "page": (None, 0.0, 0.2, False),
    "board": (None, 0.0, 0.2, False),
    "outside": (None, 0.0, 0.0, False),
    "spines": (None, 0.0, 0.4, False),
    "labels": (None, 0.0, 0.4, False),
    "cardboard": (None, 0.0, 0.8, False),
    "foliage": (None, 0.0, 0.5, False),
    "screen": (None, 0.03, 0.0, False),
    "paint": (0.8, 0.02, 0.7, False),
    "metal": (0.6, 0.05, 0.6, True),
    "white": (1.0, 0.01, 0.6, True),
}


class Style:
    """What the things of a room are made of.

    Args:
        layers: its textures.
        rng: of what is left to chance.
    """

    def __init__(self, layers: Layers, rng: np.random.Generator) -> None:
        self._layers = layers
        self._rng = rng
        kinds = ("painting", "poster", "board")
        self._pictures = rng.permutation([layer for kind in kinds for layer in layers.of(kind)])
        self._num_hung = 0
        self.wood = self.material("wood")
        self.other_wood = self.material("wood")
        self.white = self.material("white")
        self.metal = self.material("metal")
        self.black = replace(self.material("paint"), tint=(0.06, 0.06, 0.07), gloss=0.04)
        self.shade = replace(self.material("fabric"), tint=(1.0, 0.85, 0.6), glow=1.6)

    def material(self, kind: str) -> Material:
        """Of a kind in textures, a little lighter or darker than the last one."""
        metres, gloss, wear, grain = _LAID[kind]
        layer = int(self._rng.choice(self._layers.of(kind)))
        red, green, blue = self._rng.uniform(0.85, 1.1) + self._rng.uniform(-0.05, 0.05, 3)
        tint = (float(red), float(green), float(blue))
        return Material(layer, metres=metres, tint=tint, gloss=gloss, wear=wear, grain=grain)

    def furniture(self) -> Material:
        """Wood as a rule, else lacquer."""
        draw = self._rng.random()
        if draw < 0.65:
            return self.wood if draw < 0.45 else self.other_wood
        return self.white if draw < 0.8 else self.material("paint")

    def small(self) -> Material:
        """Of pots, mugs and boxes."""
        kind = self._rng.choice(["paint", "paint", "labels", "stone", "fabric", "metal", "wood"])
        return self.label() if kind == "labels" else self.material(str(kind))

    def label(self) -> Material:
        """A cover, a packet."""
        return self.material("labels").part(int(self._rng.integers(NUM_LABELS)), 4, 4)

    def spine(self) -> Material:
        """The back of a book."""
        return self.material("spines").part(int(self._rng.integers(NUM_SPINES)), NUM_SPINES, 1)

    def picture(self) -> Material:
        """Something to hang up; the same only when all others hang."""
        layer = int(self._pictures[self._num_hung % len(self._pictures)])
        self._num_hung += 1
        return Material(layer, gloss=0.02, wear=0.2)
