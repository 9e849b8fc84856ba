"""Laws of the heads: zeros say the guess, numbers reach every pose that losses ask for."""

import pytest
import torch

from posed_views import random_poses
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.methods.relative.essential import essential_of, project_to_essential, take_apart
from reloc.methods.relative.heads import HEADS

REGRESSED = [name for name in HEADS if name not in ("binned", "essential")]


def _small(count: int, seed: int = 0) -> Rigid3d:
    generator = torch.Generator().manual_seed(seed)
    tangents = torch.randn(count, 6, generator=generator) * torch.tensor([0.2] * 3 + [1.0] * 3)
    return Rigid3d.exp(tangents)


def _headings(count: int) -> torch.Tensor:
    drawn = torch.randn(count, 3, generator=torch.Generator().manual_seed(9))
    return torch.nn.functional.normalize(drawn, dim=-1)


@pytest.mark.parametrize("name", HEADS)
def test_any_numbers_are_rigid_transforms(name):
    head = HEADS[name]
    numbers = torch.randn(32, head.size, generator=torch.Generator().manual_seed(1)) * 3
    pose = head.decode(numbers, _headings(32))
    eye = torch.eye(3).expand(32, 3, 3)
    torch.testing.assert_close(pose.rotation @ pose.rotation.mT, eye, rtol=0, atol=1e-4)
    assert bool((torch.linalg.det(pose.rotation) > 0).all())
    assert bool(pose.translation.isfinite().all())
    if not head.has_scale:
        torch.testing.assert_close(pose.translation.norm(dim=-1), torch.ones(32))


@pytest.mark.parametrize("name", [name for name in HEADS if name != "binned"])
def test_zeros_leave_the_turn_as_it_is(name):
    head = HEADS[name]
    headings = _headings(4)
    pose = head.decode(torch.zeros(4, head.size), headings)
    eye = torch.eye(3).expand(4, 3, 3)
    if name == "essential":
        # Of [h]x, the rotation nearest to no turn is no turn.
        assert float(angle_between_rad(pose.rotation, eye).max()) < 1e-2
    else:
        torch.testing.assert_close(pose.rotation, eye, rtol=0, atol=1e-5)
    if not head.has_scale:
        alike = (pose.translation * headings).sum(-1)
        assert float((alike.abs() if not head.has_sign else alike).min()) > 0.999


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_finite_and_has_gradients_also_at_zero(name):
    head = HEADS[name]
    numbers = torch.zeros(8, head.size, requires_grad=True)
    rotation, translation = head.loss(numbers, _headings(8), _small(8))
    (rotation + translation).sum().backward()
    assert rotation.shape == translation.shape == (8,)
    assert numbers.grad is not None
    assert bool(numbers.grad.isfinite().all())
    assert bool((numbers.grad != 0).any())


@pytest.mark.parametrize("name", HEADS)
def test_numbers_are_found_that_say_a_pose(name):
    """Descent on the loss of some poses ends at these poses."""
    head = HEADS[name]
    true, headings = _small(6), _headings(6)
    numbers = torch.zeros(6, head.size, requires_grad=True)
    rate = 0.3 if name == "binned" else 0.05
    optimizer = torch.optim.Adam([numbers], lr=rate)
    for step in range(400):
        if step == 300:
            optimizer.param_groups[0]["lr"] = rate / 10
        optimizer.zero_grad()
        sum(part.sum() for part in head.loss(numbers, headings, true)).backward()
        optimizer.step()
    found = head.decode(numbers.detach(), headings)
    limit_deg = 1.5 if name == "binned" else 1.0
    assert float(angle_between_rad(found.rotation, true.rotation).rad2deg().max()) < limit_deg
    truth = true.translation
    if not head.has_scale:
        truth = torch.nn.functional.normalize(truth, dim=-1)
        if not head.has_sign:
            truth = truth * (truth * found.translation).sum(-1, keepdim=True).sign()
    assert float((found.translation - truth).norm(dim=-1).max()) < 0.06


def test_essential_matrices_come_apart_as_they_were_put_together():
    poses = random_poses(20, spread=1.0)
    near = random_poses(20, seed=1)
    close = Rigid3d.exp(0.05 * near.log()[..., :6]).rotation @ poses.rotation
    for sign in (1.0, -1.0):
        found = take_apart(sign * essential_of(poses), close)
        torch.testing.assert_close(found.rotation, poses.rotation, rtol=0, atol=1e-6)
        unit = torch.nn.functional.normalize(poses.translation, dim=-1)
        cosine = (unit * found.translation).sum(-1)
        torch.testing.assert_close(cosine.abs(), torch.ones(20).double())


def test_projection_keeps_essential_matrices_and_makes_others_essential():
    essential = essential_of(random_poses(10))
    torch.testing.assert_close(project_to_essential(essential), essential, rtol=0, atol=5e-3)
    drawn = torch.randn(10, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    values = torch.linalg.svdvals(project_to_essential(drawn))
    torch.testing.assert_close(values, torch.tensor([[1.0, 1, 0]]).double().expand(10, 3))
