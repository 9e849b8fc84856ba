"""How far a match is from what two posed cameras allow, with points behind a camera not allowed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d


def symmetric_error_px(
    rays_2PM3: Tensor, second_from_first: Rigid3d, focals_px_2P: Tensor
) -> Tensor:
    """Mean over both images of the distance of a match from its epipolar half-line: (P, M).

    The second image may show a point anywhere between the first camera's centre (the epipole) and
    infinity along the first ray, but not on the rest of the epipolar line: that would be behind a
    camera. So mirrored, inverted and backward poses are told from right ones even where the whole
    line would be met. Where it is met in front of both cameras, this is the epipolar error.

    Args:
        rays_2PM3: matched points of the plane z = 1 of the first and the second camera of P pairs.
        second_from_first: of batch shape (P,); its length does not matter.
        focals_px_2P: mean focal lengths, for the error in pixels of each image.

    Returns:
        Pixels; NaN where a ray is.
    """
    first_PM3, second_PM3 = rays_2PM3
    first_from_second = second_from_first.inverse()
    in_second_PM = _half_line_error_px(first_PM3, second_PM3, second_from_first, focals_px_2P[1])
    in_first_PM = _half_line_error_px(second_PM3, first_PM3, first_from_second, focals_px_2P[0])
    return (in_first_PM + in_second_PM) / 2


def _half_line_error_px(
    rays_from_PM3: Tensor, rays_to_PM3: Tensor, to_from_from: Rigid3d, focal_px_P: Tensor
) -> Tensor:
    infinity_PM3 = _unit(_rotated(to_from_from, rays_from_PM3))
    epipole_PM3 = _unit(to_from_from.translation)[:, None].expand_as(infinity_PM3)
    seen_PM3 = _unit(rays_to_PM3)
    # The line of the plane z = 1 with this normal; cameras at one place have none.
    normal_PM3 = torch.linalg.cross(epipole_PM3, infinity_PM3)
    offset_PM = (normal_PM3 * rays_to_PM3).sum(-1).abs()
    line_PM = offset_PM / normal_PM3[..., :2].norm(dim=-1).clamp_min(1e-12)
    # Binet and Cauchy: (e × s)·(e × i) > 0 and (s × i)·(e × i) > 0, s between e and i.
    cos_ei, cos_es, cos_si = (
        (one * other).sum(-1)
        for one, other in (
            (epipole_PM3, infinity_PM3),
            (epipole_PM3, seen_PM3),
            (seen_PM3, infinity_PM3),
        )
    )
    between_PM = (cos_si > cos_ei * cos_es) & (cos_es > cos_ei * cos_si)
    end_rad_PM = torch.minimum(
        (seen_PM3 - infinity_PM3).norm(dim=-1), (seen_PM3 - epipole_PM3).norm(dim=-1)
    )
    # So much of the plane is a radian off the optical axis; else pictures would fit the better, the
    # wider their angle is taken to be.
    end_PM = end_rad_PM * rays_to_PM3.square().sum(-1)
    error_PM = torch.where(between_PM, line_PM, torch.maximum(line_PM, end_PM))
    return error_PM * focal_px_P[:, None]


def _rotated(b_from_a: Rigid3d, rays_a_PM3: Tensor) -> Tensor:
    # By elements: a batched product of so small matrices waits for its threads more than it works.
    return (rays_a_PM3[:, :, None, :] * b_from_a.rotation[:, None]).sum(-1)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def triangulated_depths(
    rays_2PM3: Tensor, second_from_first: Rigid3d, min_angle_deg: float
) -> Tensor:
    """Depth z in the first camera of each match, (P, M), in the unit of the translation.

    NaN where the rays are closer to parallel than `min_angle_deg`, or meet behind a camera.
    """
    first_PM3, second_PM3 = rays_2PM3
    turned_PM3 = _rotated(second_from_first, first_PM3)
    center_PM3 = second_from_first.translation[:, None].expand_as(second_PM3)
    # second ∥ depth · turned + center: the cross product with `second` leaves depth alone.
    across_PM3 = torch.linalg.cross(second_PM3, turned_PM3)
    offset_PM3 = torch.linalg.cross(center_PM3, second_PM3)
    depth_PM = (across_PM3 * offset_PM3).sum(-1) / across_PM3.square().sum(-1).clamp_min(1e-24)
    sine_PM = across_PM3.norm(dim=-1) / (second_PM3.norm(dim=-1) * turned_PM3.norm(dim=-1))
    in_front = (depth_PM > 0) & (depth_PM * turned_PM3[..., 2] + center_PM3[..., 2] > 0)
    is_wide = sine_PM > math.sin(math.radians(min_angle_deg))
    return torch.where(is_wide & in_front, depth_PM, torch.nan)
