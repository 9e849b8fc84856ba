"""Matchers: networks that see the keypoints of two images together, and say which match.

    match = load_matcher("lightglue")
    matches = match(ImageKeypoints.of(features, size), ImageKeypoints.of(others, their_size))

Their weights were published by others, for SuperPoint's keypoints, and do not ship. The networks
were written to the published names and shapes, and have not been run with the published weights.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch

from reloc.nn.matchers.keypoints import ImageKeypoints, Match, Matches
from reloc.nn.matchers.lightglue import LightGlue
from reloc.nn.matchers.superglue import SuperGlue
from reloc.nn.weights import with_published_weights

MatcherName = Literal["lightglue", "superglue", "superglue-indoor"]
MatcherChoice = Literal["nearest", MatcherName]
"""A matcher, or nearest neighbours."""
MATCHED_FEATURES = "superpoint"
"""The kind of local features that the published matchers were trained on."""


def check_matcher(matcher: MatcherChoice, features: str) -> None:
    """Raises ValueError: the matcher was not trained on features of that kind."""
    if matcher != "nearest" and features != MATCHED_FEATURES:
        raise ValueError(
            f"the matcher {matcher} is for the features {MATCHED_FEATURES}, not for {features}"
        )


@lru_cache(maxsize=3)
def load_matcher(name: MatcherName, device: str = "cpu") -> Match:
    """The matcher of that name with its published weights; matches come back to the processor.

    Raises:
        InputError: the weights are not there, or are those of another network.
    """
    network = with_published_weights(LightGlue if name == "lightglue" else SuperGlue, name)
    network = network.to(device)

    @torch.inference_mode()
    def match(first: ImageKeypoints, second: ImageKeypoints) -> Matches:
        found = network(first.to(device), second.to(device))
        return Matches(found.pairs_M2.cpu(), found.probability_M.cpu())

    return match
