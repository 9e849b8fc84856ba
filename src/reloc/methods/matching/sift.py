"""The classical pipeline: SIFT or ORB points, triangulated from known poses, found by matching."""

from dataclasses import replace

from reloc.contract import Method
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.family import build_map, open_map

METHOD = Method(
    name="sift",
    family="matching",
    summary="SIFT points triangulated from the known poses, 2D-3D matching, robust PnP.",
    paper="Lowe, Distinctive image features from scale-invariant keypoints, IJCV 2004; "
    "Sattler et al., Efficient and effective prioritized matching, TPAMI 2017",
    published="no figure to compare: of its kind, Active Search has 98.5 % (7-Scenes, SfM)",
    config=MatchingConfig,
    tiny=MatchingConfig(max_keypoints=500, pairs_by_pose=4, pairs_by_retrieval=2, vocabulary=16),
    build_map=build_map,
    localizer=open_map,
    presets={
        "orb": replace(MatchingConfig(), features="orb", max_keypoints=4000, max_ratio=0.9),
        # Small maps: points that cover the views; most descriptors of 16 bytes, a few whole.
        "hybridsc": replace(
            MatchingConfig(),
            points_per_view=250,
            descriptor_bytes=16,
            full_points_per_view=20,
            vocabulary=16,
        ),
    },
    maps_depth=True,
)
