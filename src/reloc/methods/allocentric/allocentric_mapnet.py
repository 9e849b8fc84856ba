"""Allocentric MapNet: a memory of the ground; where a query fits it, over cells and headings."""

from __future__ import annotations

from reloc.contract import Method
from reloc.methods.allocentric.config import AllocentricConfig
from reloc.methods.allocentric.localizer import AllocentricLocalizer
from reloc.methods.allocentric.mapping import build_map

METHOD = Method(
    name="allocentric-mapnet",
    family="allocentric",
    summary="RGB-D: what lies where on the ground; a query is fitted to it at every heading.",
    paper="Henriques and Vedaldi, MapNet: An Allocentric Spatial Memory for Mapping Environments, "
    "CVPR 2018",
    published="no figure to compare: game levels and apartments",
    config=AllocentricConfig,
    tiny=AllocentricConfig(short_side_px=120, num_headings=48, features=8),
    build_map=build_map,
    localizer=AllocentricLocalizer,
    context="sequence",
    presets={
        "trained": AllocentricConfig(steps=60),
        "gru": AllocentricConfig(steps=60, update="gru"),
    },
    uses_depth=True,
    needs_depth=True,
)
