"""Relpose-GNN: messages in a graph of similar views correct what each says of a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.relative import family, learning
from reloc.methods.relative.config import TINY
from reloc.methods.relative.family import GROWTH, Asked, RelativeLocalizer
from reloc.methods.relative.graph import (
    GraphNetwork,
    RelposeGnnConfig,
    gaps,
    graph_parts,
    train_graph,
)
from reloc.methods.relative.pretraining import pretrain
from reloc.methods.relative.shared import GRAPH
from reloc.nn.unfilled import unfilled
from reloc.scenes.scene import View


def build_map(views: Sequence[View], config: RelposeGnnConfig, run: Run) -> Tensors:
    """Learn relative poses of pairs, then how the views of a graph correct one another."""
    if config.recursions:
        graph_parts()
    lesson = learning.prepare(views, config, run)
    network = learning.train_pair_network(lesson, config, run)
    tensors = {**family.map_tensors(lesson, config), **family.network_tensors(network)}
    if config.recursions:
        graph = train_graph(lesson, network, config, run)
        tensors |= family.network_tensors(graph, GRAPH)
    return family.with_trials(tensors, lesson.trials, lambda t: localizer(t, config, run), run)


def localizer(tensors: Tensors, config: RelposeGnnConfig, run: Run) -> Localizer:
    """Answers by the mean of what the views of the graph say."""
    reader, place = family.open_place(tensors, config, run)
    network = family.open_pair_network(tensors, config, run)
    refine = None
    if config.recursions:
        with unfilled():
            graph = GraphNetwork(config)
        family.load_network(graph, tensors, run, GRAPH)

        def refined(asked: Asked) -> Asked:
            if len(asked.reference_K) < 2:
                return asked
            gap, index_2E = gaps(asked.edges, asked.reference_K[None], place, config)
            return replace(asked, edges=graph(asked.edges, gap, index_2E))

        refine = refined
    return RelativeLocalizer(reader, place, network, float(tensors[GROWTH]), config, run, refine)


METHOD = Method(
    name="relpose-gnn",
    family="relative",
    summary="Messages in a graph of similar views correct the relative poses that they say.",
    paper="Turkoglu, Brachmann, Schindler, Brostow and Monszpart, Visual Camera Re-Localization "
    "Using Graph Neural Networks and Relative Pose Supervision, 3DV 2021",
    published="0.17 m, 5.2° (7-Scenes, mean of medians); not reproduced",
    config=RelposeGnnConfig,
    tiny=RelposeGnnConfig(**TINY, graph_steps=15, graphs_per_step=4),
    build_map=build_map,
    localizer=localizer,
    pretrain=pretrain,
    presets={
        # Two of the things that the paper does otherwise: one edge answers, and messages know no
        # poses. Its edges, differences of world poses, and its trained trunk are not here.
        "paper": RelposeGnnConfig(combination="single", known_poses=False),
        "no-graph": RelposeGnnConfig(recursions=0),
        # Nothing is trained: networks that rendered rooms have taught.
        "unseen": RelposeGnnConfig(weights="shipped"),
    },
    # Without training.
    min_views=1,
)
