"""DSAC's network and scores."""

import pytest
import torch
from test_dsacstar import receptive_field, setting

from reloc.methods.coordinates.dsac import PatchTrunk, ScoreNetwork, initial_loss, score_loss


def test_a_code_sees_a_patch_of_42_px() -> None:
    assert receptive_field(PatchTrunk()) == 42
    assert PatchTrunk()(torch.zeros(1, 1, 67, 80)).shape[-2:] == (8, 10)


def test_known_places_teach_distances_and_others_pixels() -> None:
    known = setting((0.0, 0.1, 2.0), depth=4.0)
    assert float(initial_loss(*known, 0.0)) == pytest.approx(20, rel=1e-3)
    assert float(initial_loss(*setting((0.0, 0.1, 2.0)), 0.0)) == pytest.approx(20, rel=1e-3)


def test_scores_are_compared_up_to_a_constant_and_on_valid_hypotheses_alone() -> None:
    losses = torch.tensor([[1.0, 5.0, 100.0, 2.0]])
    valid = torch.tensor([[True, True, False, True]])
    right = torch.tensor([[7.0, 5.0, -1000.0, 6.5]])
    assert float(score_loss(right, losses, valid, 0.5)) == 0
    assert float(score_loss(right.flip(1), losses, valid, 0.5)) > 1
    assert float(score_loss(right, losses, torch.zeros_like(valid), 0.5)) == 0


def test_score_network_learns_to_tell_small_errors_from_large_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scorer = ScoreNetwork()
    usable = torch.ones(1, 24 * 20, dtype=torch.bool)
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-3)
    valid = torch.ones(1, 16, dtype=torch.bool)

    def example() -> tuple[torch.Tensor, torch.Tensor]:
        share = torch.rand(1, 16, 1, generator=generator)
        inlier = torch.rand(1, 16, 24 * 20, generator=generator) < share
        return torch.where(inlier, 5.0, torch.inf), 20 * (1 - share[..., 0])

    for _ in range(150):
        errors, losses = example()
        optimizer.zero_grad()
        score_loss(scorer(errors, usable, (24, 20)), losses, valid, 0.5).backward()
        optimizer.step()
    errors, losses = example()
    scores = scorer(errors, usable, (24, 20))
    assert float(torch.corrcoef(torch.stack([scores[0], -losses[0].double()]))[0, 1]) > 0.9
