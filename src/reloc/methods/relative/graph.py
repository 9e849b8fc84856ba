"""The graph of Relpose-GNN: messages between the references of a query correct what each says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.methods.relative import learning
from reloc.methods.relative.config import RelativeConfig
from reloc.methods.relative.heads import HEADS
from reloc.methods.relative.learning import Lesson, Place
from reloc.methods.relative.network import Edges, PairNetwork, edge_loss
from reloc.methods.relative.pairs import targets
from reloc.methods.relative.shared import GRAPH
from reloc.nn.unfilled import unfilled
from reloc.training.fit import fit
from reloc.training.stages import stage

# Angles and lengths over the unit beyond which a disagreement is simply large.
_MAX_GAP = 2.0


@dataclass(frozen=True)
class RelposeGnnConfig(RelativeConfig):
    """Settings of the graph network.

    The paper's edges are differences of world poses (t, log q), which only the place of its
    training has; here they are true relative poses, whose network another place can use.
    """

    recursions: int = 2
    """Times that messages are passed; 0: no graph, each view speaks for itself."""
    graph_steps: int = 500
    """Steps of training of the graph network, on a finished network of pairs."""
    graphs_per_step: int = 12
    """Graphs of a step."""
    known_poses: bool = True
    """Messages tell how far two views contradict each other, by their own known poses; False: as in
    the paper, only what the images look like."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recursions < 0 or self.graph_steps < 1 or self.graphs_per_step < 1:
            raise ValueError(
                "recursions must be at least 0, graph_steps and graphs_per_step at least 1"
            )


class GraphNetwork(nn.Module):
    """A query and its references as a graph: corrections of what each reference says.

    A node is a reference with what the network of pairs has read of it and the query. Messages run
    along all ordered pairs of references, weighed by attention; one layer, several times.

    Source: Turkoglu, Brachmann, Schindler, Brostow and Monszpart, "Visual camera re-localization
    using graph neural networks and relative pose supervision", 3DV 2021, section 3.
    """

    def __init__(self, config: RelposeGnnConfig) -> None:
        super().__init__()
        scatter, softmax = graph_parts()
        self._scatter, self._softmax = scatter, softmax
        width, embedding = config.width, 2 * config.width
        numbers = HEADS[config.head].size
        self.recursions = config.recursions
        self.enter = nn.Linear(embedding + numbers + 2, width)
        self.edge = nn.Sequential(nn.Linear(2 * width + 8, width), nn.ReLU())
        self.message = nn.Sequential(
            nn.Linear(2 * width + 8, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.attention = nn.Linear(width, 1)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU())
        self.leave = nn.Linear(width, numbers + 2)
        # Zeros: what the network of pairs says is left as it is.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, edges: Edges, gap_E8: Tensor, index_2E: Tensor) -> Edges:
        """Corrected edges of queries.

        Args:
            edges: of all queries, batch (Q * K,).
            gap_E8: of ordered pairs of them with one query, what is known of the pair.
            index_2E: which two each pair is of, from and to.
        """
        said = torch.cat([edges.embedding_D, edges.numbers, edges.log_scale_2], dim=1)
        node = functional.relu(self.enter(said))
        source, target = index_2E
        for _ in range(self.recursions):
            both = torch.cat([node[target], node[source], gap_E8], dim=1)
            weight = self._softmax(self.attention(self.edge(both)), target, num_nodes=len(node))
            sent = self._scatter(
                weight * self.message(both), target, dim=0, dim_size=len(node), reduce="sum"
            )
            node = node + self.update(torch.cat([node, sent], dim=1))
        change = self.leave(node)
        return replace(
            edges,
            numbers=edges.numbers + change[:, :-2],
            log_scale_2=edges.log_scale_2 + change[:, -2:],
        )


def gaps(
    edges: Edges, reference_QK: Tensor, place: Place, config: RelposeGnnConfig
) -> tuple[Tensor, Tensor]:
    """What is known of ordered pairs of references with one query: (E, 8), and their index (2, E).

    How the pose of the query that one of them says differs from that which the other says (rotation
    vector, translation over the unit), in the query's frame; and how alike the two look.

    Args:
        edges: batch (Q * K,), in the order of `reference_QK`.
        reference_QK: references of each query.
        place: these.
        config: of the graph.
    """
    num_queries, count = reference_QK.shape
    device = edges.numbers.device
    within = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    within = within[within[:, 0] != within[:, 1]].reshape(-1, 2)
    index_2E = (within.T[:, None] + count * torch.arange(num_queries)[:, None]).reshape(2, -1)
    reference_N = reference_QK.flatten()
    source, target = index_2E
    alike_E = (place.vectors_ND[reference_N[source]] * place.vectors_ND[reference_N[target]]).sum(1)
    # How alike whitened vectors are means something else in each place.
    features = [alike_E[:, None].to(device) * float(config.trains)]
    if config.known_poses:
        said = edges.query_from_reference(config.head, place.unit).to(torch.float64).to("cpu")
        said = said @ place.cam_from_world[reference_N]
        between = said[source] @ said[target].inverse()
        # The chord of the turn; a logarithm has corners at half a turn.
        skewed = between.rotation - between.rotation.mT
        turn_E3 = torch.stack([skewed[:, 2, 1], skewed[:, 0, 2], skewed[:, 1, 0]], -1) / 2
        center_E3 = said[source].inverse().translation - said[target].inverse().translation
        shift_E3 = (said[target].rotation @ center_E3[..., None])[..., 0] / place.unit
        size_E1 = shift_E3.norm(dim=-1, keepdim=True)
        features += [
            part.float().clamp(-_MAX_GAP, _MAX_GAP).to(device)
            for part in (turn_E3, shift_E3, size_E1)
        ]
    gap_E8 = torch.cat(features, dim=1)
    return functional.pad(gap_E8, (0, 8 - gap_E8.shape[1])), index_2E.to(device)


def train_graph(
    lesson: Lesson, network: PairNetwork, config: RelposeGnnConfig, run: Run
) -> GraphNetwork:
    """A graph network that has learned from the lesson's pairs, grouped by their query.

    Where the lesson has networks from elsewhere it is theirs, and nothing is trained. Where no view
    is paired with two others, as in a map of two views, it changes nothing.
    """
    pairs, place = lesson.pairs, lesson.place
    if lesson.shared is not None:
        with unfilled():
            graph = GraphNetwork(config)
        return lesson.shared.fill(graph, GRAPH, run)
    said = learning.said_of(lesson, network, config, run, torch.arange(len(pairs)))
    # Graphs are all of one size, as many as the view with fewest pairs allows.
    of_query = [(pairs.query_P == query).nonzero()[:, 0] for query in pairs.query_P.unique()]
    sizes = sorted(len(index) for index in of_query)
    count = max(2, min(config.num_neighbours, sizes[len(sizes) // 4]))
    of_query = [index for index in of_query if len(index) >= count]
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        graph = GraphNetwork(config)
    graph = graph.to(run.device)
    if not of_query:
        # Its last layer is zeros: it leaves what the network of pairs says as it is.
        run.log.warning("no view is paired with two others: nothing to learn the graph from")
        return graph.eval().requires_grad_(False)

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
        chosen = torch.randint(len(of_query), (config.graphs_per_step,), generator=generator)
        index_QK = torch.stack(
            [
                of_query[query][torch.randperm(len(of_query[query]), generator=generator)[:count]]
                for query in chosen.tolist()
            ]
        )
        index_B = index_QK.flatten()
        edges = learning.some_edges(said, index_B.to(run.device))
        gap, index_2E = gaps(edges, pairs.reference_P[index_QK], place, config)
        target = targets(pairs, index_B, place.cam_from_world, place.unit).to(run.device)
        return edge_loss(graph(edges, gap, index_2E), config.head, target)

    steps = learning.fit_config(config.graph_steps, config.max_learning_rate / 2)
    fit(graph, loss_at, steps, stage(run, "graph"), "learning graphs")
    return graph.eval().requires_grad_(False)


def graph_parts() -> tuple[Any, Any]:
    """Sums and softmaxes over the edges of a graph, by torch_geometric.

    Raises:
        InputError: it is not installed.
    """
    try:
        from torch_geometric.utils import scatter, softmax
    except ImportError as error:
        raise InputError(
            "relpose-gnn needs torch_geometric: pip install 'reloc[graph]', or set --recursions 0"
        ) from error
    return scatter, softmax
