"""First matches of a query by a network that sees its keypoints with those of each similar view."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.features import reduced_size
from reloc.methods.matching.localizer import ImageVector, Propose, first_of_each
from reloc.methods.matching.point_map import PointMap
from reloc.nn.local_features import LocalFeatures
from reloc.nn.matchers import ImageKeypoints, Match
from reloc.scenes.scene import Query


def by_matched_views(
    point_map: PointMap, config: MatchingConfig, image_vector: ImageVector, match: Match
) -> Propose:
    """Matches with the points of keypoints of the most similar views, and then of more views.

    Args:
        point_map: the map, with the keypoints of its views.
        config: of the map.
        image_vector: what a query is compared with the map's image vectors by.
        match: the matcher.
    """

    def propose(query: Query, features: LocalFeatures) -> Iterator[Tensor]:
        asked = ImageKeypoints.of(features, reduced_size(query.camera, config))
        num_first = config.num_retrieved
        views_V = point_map.similar_views(image_vector(query, features), 4 * num_first)
        pairs, probabilities = [torch.zeros(0, 2, dtype=torch.int64)], [torch.zeros(0)]
        # Views that were matched already are not matched once more.
        for views in (views_V[:num_first], views_V[num_first:]):
            if not len(views):
                return
            for view in views.tolist():
                seen, point_N = point_map.keypoints_of(view)
                found = match(asked, seen)
                point_M = point_N[found.pairs_M2[:, 1]]
                known_M = point_M >= 0
                pairs.append(torch.stack([found.pairs_M2[:, 0], point_M], dim=1)[known_M])
                probabilities.append(found.probability_M[known_M])
            yield agreed(torch.cat(pairs), torch.cat(probabilities))

    return propose


def agreed(pairs_T2: Tensor, probability_T: Tensor) -> Tensor:
    """Each keypoint (column 0) once, with the point (column 1) that most views give it.

    Views are counted by their probabilities; the pairs (M, 2) come with the surest first.
    """
    pairs_M2, of_T = pairs_T2.unique(dim=0, return_inverse=True)
    total_M = probability_T.new_zeros(len(pairs_M2)).index_add_(0, of_T, probability_T)
    pairs_M2 = pairs_M2[total_M.argsort(descending=True, stable=True)]
    return pairs_M2[first_of_each(pairs_M2[:, 0])]
