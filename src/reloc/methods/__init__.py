"""The table of methods: a name to the module whose `METHOD` is its row, imported on use."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from reloc.contract import Method
from reloc.input_error import InputError

METHODS = {
    "thumbnail": "reloc.methods.retrieval.thumbnail",
    "gist": "reloc.methods.retrieval.gist",
    "bow": "reloc.methods.retrieval.bow",
    "densevlad": "reloc.methods.retrieval.densevlad",
    "netvlad": "reloc.methods.retrieval.netvlad",
    "densevlad-inter": "reloc.methods.retrieval.densevlad_inter",
    "sift": "reloc.methods.matching.sift",
    "active-search": "reloc.methods.matching.active_search",
    "r2d2": "reloc.methods.matching.r2d2",
    "hloc": "reloc.methods.matching.hloc",
    "gomatch": "reloc.methods.matching.gomatch",
    "ace": "reloc.methods.coordinates.ace",
    "glace": "reloc.methods.coordinates.glace",
    "dsacstar": "reloc.methods.coordinates.dsacstar",
    "dsacpp": "reloc.methods.coordinates.dsacpp",
    "dsac": "reloc.methods.coordinates.dsac",
    "esac": "reloc.methods.coordinates.esac",
    "src": "reloc.methods.coordinates.src",
    "sanet": "reloc.methods.coordinates.sanet",
    "scorf": "reloc.methods.forests.scorf",
    "rgb-forest": "reloc.methods.forests.rgb_forest",
    "adaptive-forest": "reloc.methods.forests.adaptive_forest",
    "allocentric-mapnet": "reloc.methods.allocentric.allocentric_mapnet",
    "posenet": "reloc.methods.absolute.posenet",
    "posenet-learned": "reloc.methods.absolute.posenet_learned",
    "posenet-geometric": "reloc.methods.absolute.posenet_geometric",
    "bayesian-posenet": "reloc.methods.absolute.bayesian_posenet",
    "lstm-posenet": "reloc.methods.absolute.lstm_posenet",
    "zurad-regressor": "reloc.methods.absolute.zurad_regressor",
    "zurad-spatial-lstm": "reloc.methods.absolute.zurad_spatial_lstm",
    "hourglass-pose": "reloc.methods.absolute.hourglass",
    "branchnet": "reloc.methods.absolute.branchnet",
    "atloc": "reloc.methods.absolute.atloc",
    "gposenet": "reloc.methods.absolute.gposenet",
    "anchorpoint": "reloc.methods.absolute.anchorpoint",
    "adposenet": "reloc.methods.absolute.adposenet",
    "mlfbppose": "reloc.methods.absolute.mlfbppose",
    "annet": "reloc.methods.absolute.annet",
    "svs-pose": "reloc.methods.absolute.svs_pose",
    "ms-transformer": "reloc.methods.absolute.ms_transformer",
    "vidloc": "reloc.methods.absolute.vidloc",
    "zurad-temporal-gru": "reloc.methods.absolute.zurad_temporal_gru",
    "mapnet": "reloc.methods.absolute.mapnet",
    "mapnet-plus": "reloc.methods.absolute.mapnet_plus",
    "atloc-plus": "reloc.methods.absolute.atloc_plus",
    "lsg": "reloc.methods.absolute.lsg",
    "vlocnet": "reloc.methods.absolute.vlocnet",
    "vlocnet-pp": "reloc.methods.absolute.vlocnet_pp",
    "grnet": "reloc.methods.absolute.grnet",
    "nn-net": "reloc.methods.relative.nn_net",
    "relocnet": "reloc.methods.relative.relocnet",
    "essnet": "reloc.methods.relative.essnet",
    "nc-essnet": "reloc.methods.relative.nc_essnet",
    "camnet": "reloc.methods.relative.camnet",
    "relpose-gnn": "reloc.methods.relative.relpose_gnn",
    "mapfree": "reloc.methods.relative.mapfree",
}


def get_method(name: str) -> Method[Any]:
    """The row of `name`.

    Raises:
        InputError: there is none.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        raise InputError(
            f"there is no method {name!r}{f', perhaps {near[0]!r}' if near else ''}: "
            "`reloc methods` lists them"
        )
    return importlib.import_module(METHODS[name]).METHOD


def get_config(name: str) -> tuple[Method[Any], Any]:
    """The row and the config of `method` or `method:preset`.

    Raises:
        InputError: there is no such method or preset.
    """
    method_name, _, preset = name.partition(":")
    method = get_method(method_name)
    if not preset:
        return method, method.config()
    if preset not in method.presets:
        known = ", ".join(method.presets) or "none"
        raise InputError(f"{method_name} has no preset {preset!r}; it has: {known}")
    return method, method.presets[preset]
