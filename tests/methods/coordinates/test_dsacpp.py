"""DSAC++'s stages, its network, and the scale that keeps the choice fair."""

import pytest
import torch
from test_dsacstar import receptive_field, setting

from reloc.methods.coordinates.dsacpp import FullFrameTrunk, initial_loss
from reloc.methods.coordinates.expectation import larger_error
from reloc.methods.coordinates.scorers import SoftInliers


def test_the_first_stage_draws_to_places_and_the_second_to_pixels() -> None:
    batch = setting((0.1, 0.0, 1.0))
    assert float(initial_loss(*batch, 0.1, coordinate_share=0.2)) == pytest.approx(0.6, rel=1e-4)
    assert float(initial_loss(*batch, 0.2, coordinate_share=0.2)) == pytest.approx(40, rel=1e-4)
    known = setting((0.0, 0.0, 1.0), depth=4.0)
    assert float(initial_loss(*known, 0.1, coordinate_share=0.2)) == pytest.approx(1, rel=1e-4)
    behind = setting((0.0, 0.0, -1.0))
    assert float(initial_loss(*behind, 1.0, coordinate_share=0.2)) == pytest.approx(2.5, rel=1e-4)


def test_a_near_point_pulls_no_harder_than_one_at_half_the_extent() -> None:
    pulls = []
    for depth in (0.1, 0.5, 1.0):
        head, buffer, cameras, cells = setting((0.01 * depth, 0.0, depth))
        loss = initial_loss(head, buffer, cameras, cells, 1.0, coordinate_share=0.2)
        (gradient,) = torch.autograd.grad(loss, buffer.codes_NC)
        pulls.append(float(gradient.norm()))
    assert pulls[0] == pytest.approx(800, rel=1e-2)
    assert pulls[1] == pytest.approx(800, rel=1e-2)
    assert pulls[2] == pytest.approx(400, rel=1e-2)


def test_the_loss_of_a_pose_is_the_larger_error_and_bounded() -> None:
    loss = larger_error(torch.tensor([3.0, 1.0, 180.0]), torch.tensor([2.0, 5.0, 0.0]))
    assert loss.tolist() == [3, 5, 100]


def test_a_code_sees_more_than_the_paper_counts() -> None:
    assert receptive_field(FullFrameTrunk()) == 73


def test_the_scale_learns_the_entropy_and_the_scores_do_not_teach_it() -> None:
    scorer = SoftInliers(10.0, 5.0, 100.0, target_bits=3.0)
    errors = torch.rand(1, 64, 50, generator=torch.Generator().manual_seed(0)) * 20
    usable, valid = torch.ones(1, 50, dtype=torch.bool), torch.ones(1, 64, dtype=torch.bool)
    errors.requires_grad_()
    scores = scorer(errors, usable, (5, 10))
    scores.sum().backward()
    assert errors.grad is not None
    assert scorer.log_gain.grad is None
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-4)
    for _ in range(400):
        optimizer.zero_grad()
        scorer.control(scorer(errors, usable, (5, 10)), valid).backward()
        optimizer.step()
    assert float(scorer.control(scorer(errors, usable, (5, 10)), valid)) < 0.1
    fixed = SoftInliers(10.0, 5.0, 100.0)
    assert float(fixed.control(scores, valid)) == 0
    assert not fixed.state_dict()
