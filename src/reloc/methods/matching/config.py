"""Settings of the matching family."""

from __future__ import annotations

from dataclasses import dataclass

from reloc.nn.local_features import FeatureKind


@dataclass(frozen=True)
class MatchingConfig:
    """Settings of a feature-matching map."""

    features: FeatureKind = "sift"
    """Detector and descriptor."""
    max_side_px: int = 1024
    """Larger images are reduced to this longer side; errors in pixels are of the reduced image."""
    max_keypoints: int = 2000
    """Strongest keypoints kept in each image."""
    min_view_distance: float = 0.015
    """A mapping view is left out where one that is kept is nearer than this share of the scene's
    extent, and turned by less than min_view_angle_deg from it."""
    min_view_angle_deg: float = 3.0
    """See min_view_distance."""
    pairs_by_pose: int = 8
    """Views matched with each view because they look the same way from near by."""
    pairs_by_retrieval: int = 4
    """Views matched with each view because they look alike."""
    max_pair_angle_deg: float = 60.0
    """Largest angle between the optical axes of two views that are matched."""
    max_ratio: float = 0.85
    """Nearest over second nearest descriptor distance up to which a match counts as distinctive."""
    max_epipolar_error_px: float = 2.0
    """How far a match may be from the epipolar geometry of the known poses."""
    max_point_error_px: float = 3.0
    """Reprojection error up to which an observation belongs to a point."""
    min_ray_angle_deg: float = 1.5
    """Least angle between the rays of a point: below it the depth is uncertain."""
    depth: bool = False
    """Also take points from the mapping views' depth maps, where triangulation gives none. They
    must belong to the same reconstruction as the poses: on 7-Scenes, use the d-slam ground
    truth."""
    vocabulary: int = 64
    """Words of the image index."""
    num_retrieved: int = 10
    """Similar mapping views whose points a query is matched with; where too few agree, it is tried
    once more with four times as many."""
    max_error_px: float = 8.0
    """Reprojection error up to which a correspondence agrees with a first pose."""
    guided_radius_px: float = 6.0
    """How far from its projection under the first pose a point is looked for."""
    max_guided_error_px: float = 4.0
    """Reprojection error up to which a correspondence agrees with the final pose."""
    min_inliers: int = 20
    """With fewer matches that agree with the first pose a query is declined: in a picture of
    another place, up to nine or so agree by chance, and 15 where the focal length is free, too."""

    points_per_view: int | None = None
    """Keep only so many points that each view sees about this number of them; None: all."""
    descriptor_bytes: int | None = None
    """Compress the points' descriptors to so many bytes by product quantisation; None: do not."""
    full_points_per_view: int = 0
    """Of the points with compressed descriptors, so many that each view sees keep theirs whole."""

    def __post_init__(self) -> None:
        for name in ("max_side_px", "max_keypoints", "vocabulary", "num_retrieved", "min_inliers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.max_ratio <= 1:
            raise ValueError(f"max_ratio is {self.max_ratio}; it must be in (0, 1]")
        if self.points_per_view is not None and self.points_per_view < 1:
            raise ValueError(f"points_per_view is {self.points_per_view}; it must be at least 1")
        if self.full_points_per_view < 0:
            raise ValueError("full_points_per_view cannot be negative")
        if self.full_points_per_view and self.points_per_view is None:
            raise ValueError("full_points_per_view needs points_per_view")
        if self.descriptor_bytes is not None and (
            self.features == "orb" or self.descriptor_bytes not in (4, 8, 16, 32)
        ):
            raise ValueError("descriptor_bytes is 4, 8, 16 or 32, and not for ORB, which has 32")
