import pytest
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


@pytest.mark.parametrize("num_clusters", [0, 3])
def test_places_are_said_in_full_precision_under_autocast(num_clusters: int) -> None:
    torch.manual_seed(0)
    head = CoordinateHead(16, 32, 1, num_clusters).requires_grad_(False)
    if head.centers is not None and head.cluster is not None:
        head.centers.copy_(torch.randn(num_clusters, 3))
        head.cluster.bias.copy_(torch.tensor([3.0, 0.0, -1.0]))
    codes = torch.randn(200, 16)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = head._hidden(codes)
        rounded = head(codes)
    assert hidden.dtype == torch.bfloat16
    # What the last layer makes of the same numbers without autocast.
    torch.testing.assert_close(rounded, head._points(hidden.float()), rtol=0, atol=0)
