"""The materials of one room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reloc.scenes.synthetic.surfaces import Material
from reloc.scenes.synthetic.textures import NUM_LABELS, NUM_SPINES, Layers

_ANY_LAYER = -1
# The materials of each kind, but for layer and tint.
_KINDS = {
    "plaster": Material(_ANY_LAYER, metres=1.6, wear=0.6),
    "ceiling": Material(_ANY_LAYER, metres=2.3, wear=0.4),
    "wallpaper": Material(_ANY_LAYER, metres=1.1, wear=0.7),
    "brick": Material(_ANY_LAYER, metres=1.4, wear=0.9),
    "tiles": Material(_ANY_LAYER, metres=1.2, gloss=0.04, wear=0.5),
    "wood": Material(_ANY_LAYER, metres=0.75, gloss=0.015, wear=1.0, grain=True),
    "planks": Material(_ANY_LAYER, metres=1.25, gloss=0.02, wear=1.0),
    "parquet": Material(_ANY_LAYER, metres=1.2, gloss=0.03, wear=1.0),
    "stone": Material(_ANY_LAYER, metres=1.6, gloss=0.02, wear=1.0),
    "fabric": Material(_ANY_LAYER, metres=0.7, wear=0.5),
    "rug": Material(_ANY_LAYER, wear=0.6),
    "carpet": Material(_ANY_LAYER, metres=1.0, wear=1.0),
    "painting": Material(_ANY_LAYER, wear=0.2),
    "poster": Material(_ANY_LAYER, gloss=0.02, wear=0.2),
    "page": Material(_ANY_LAYER, wear=0.2),
    "board": Material(_ANY_LAYER, wear=0.2),
    "outside": Material(_ANY_LAYER, wear=0.0),
    "spines": Material(_ANY_LAYER, wear=0.4),
    "labels": Material(_ANY_LAYER, wear=0.4),
    "cardboard": Material(_ANY_LAYER, wear=0.8),
    "foliage": Material(_ANY_LAYER, wear=0.5),
    "screen": Material(_ANY_LAYER, gloss=0.03, wear=0.0),
    "paint": Material(_ANY_LAYER, metres=0.8, gloss=0.02, wear=0.7),
    "metal": Material(_ANY_LAYER, metres=0.6, gloss=0.05, wear=0.6, grain=True),
    "white": Material(_ANY_LAYER, metres=1.0, gloss=0.01, wear=0.6, grain=True),
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
        layer = int(self._rng.choice(self._layers.of(kind)))
        red, green, blue = self._rng.uniform(0.85, 1.1) + self._rng.uniform(-0.05, 0.05, 3)
        tint = (float(red), float(green), float(blue))
        return replace(_KINDS[kind], layer=layer, tint=tint)

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
