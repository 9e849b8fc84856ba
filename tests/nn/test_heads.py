import torch

from reloc.nn.heads import CoordinateHead


def test_a_fresh_head_points_near_the_origin_and_stays_finite() -> None:
    torch.manual_seed(0)
    head = CoordinateHead(128, 64, 2)
    assert float(head(torch.randn(500, 128)).detach().abs().max()) < 5
    assert bool(head(1e6 * torch.randn(50, 128)).isfinite().all())


def test_far_points_are_reached_by_the_homogeneous_coordinate_alone() -> None:
    head = CoordinateHead(4, 8, 1)
    with torch.no_grad():
        head.point.weight.zero_()
        head.point.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        at_zero = head(torch.zeros(1, 4))
        head.point.bias[3] = -100.0
        furthest = head(torch.zeros(1, 4))
    torch.testing.assert_close(at_zero, torch.tensor([[1.0, 0, 0]]))
    torch.testing.assert_close(furthest, torch.tensor([[4.0, 0, 0]]))
