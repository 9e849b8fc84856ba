"""Retrieval: a query is where the most similar mapping image was taken.

A method of the family is a function that describes an image by a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import faiss
import torch
from torch import Tensor

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.scenes.scene import Query, View

Describe = Callable[[Tensor], Tensor | None]
"""An image (3, H, W) uint8 RGB to a vector (D,) float32 of norm 1; None where it shows nothing."""


def build_map(views: Sequence[View], describe: Describe, run: Run) -> dict[str, Tensor]:
    """Describe the mapping images; those that show nothing are left out.

    Raises:
        InputError: an image cannot be read, or none shows anything.
    """
    described = [
        (view, descriptor)
        for view in run.progress.track(views, "describing images")
        if (descriptor := describe(view.read_image())) is not None
    ]
    if not described:
        raise InputError(
            f"none of the {len(views)} mapping images (from {views[0].name} on) has any contrast: "
            "look at them, are they black?"
        )
    cam_from_world = Rigid3d.stack([view.cam_from_world for view, _ in described])
    return {
        # Half precision is far finer than two photos of one place are alike.
        "descriptors": torch.stack([descriptor for _, descriptor in described]).half(),
        "rotations": cam_from_world.rotation,
        "translations": cam_from_world.translation,
        "names": text_to_tensor([view.name for view, _ in described]),
    }


class RetrievalLocalizer:
    """Answers with the pose of the mapping image whose descriptor has the largest inner product."""

    def __init__(self, tensors: Tensors, describe: Describe) -> None:
        self._describe = describe
        self._cam_from_world = Rigid3d(tensors["rotations"], tensors["translations"])
        self._names = tensor_to_text(tensors["names"])
        descriptors_ND = tensors["descriptors"].float().numpy()
        self._index = faiss.IndexFlatIP(descriptors_ND.shape[1])
        self._index.add(descriptors_ND)  # pyright: ignore[reportCallIssue]

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query; the camera is not looked at. Declines what shows nothing."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> PoseEstimate:
        descriptor = self._describe(query.image)
        if descriptor is None:
            return PoseEstimate(None)
        # One by one: the sums of a batch are ordered otherwise, and ties would depend on company.
        _, neighbours = self._index.search(descriptor[None].numpy(), 1)  # pyright: ignore[reportCallIssue]
        nearest = int(neighbours[0, 0])
        return PoseEstimate(self._cam_from_world[nearest], reference=self._names[nearest])
