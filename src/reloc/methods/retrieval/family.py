"""Retrieval: a query is where the most similar mapping image was taken.

A method of the family is a descriptor of images, and a way from similar views to a pose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.retrieval.certainty import Certainty, learn_certainty
from reloc.nn.descriptors import DescriptorName, fit_descriptor, open_descriptor
from reloc.nn.descriptors.descriptor import Descriptor
from reloc.nn.descriptors.index import DescriptorIndex
from reloc.scenes.scene import Query, View

Describe = Callable[[Tensor], Tensor]
"""An image (3, H, W) uint8 RGB to a vector (D,) float32 of norm 1 at most; zeros: no contrast."""
Blend = Callable[[Rigid3d, Tensor, Tensor], Rigid3d]
"""Poses (K,) of the views most like a query, their vectors (K, D) and its (D,): its pose."""

_STATE = "descriptor."


def build_map(
    views: Sequence[View],
    fitted: tuple[Descriptor, Tensor],
    run: Run,
) -> dict[str, Tensor]:
    """A map of views that a descriptor was fitted to: what is in it, its vectors, their poses.

    Args:
        views: mapping views.
        fitted: as `fit_descriptor` gives it.
        run: its log.
    """
    descriptor, vectors_ND = fitted
    tensors = map_of_vectors(views, vectors_ND)
    poses = Rigid3d(tensors["rotations"], tensors["translations"])
    certainty = learn_certainty(tensors["descriptors"].float(), poses)
    if certainty is None:
        run.log.info("the views are too few, or too much alike, to learn a confidence from")
    state = {f"{_STATE}{name}": value for name, value in descriptor.state().items()}
    return {**tensors, **state, "certainty": Certainty.to_tensor(certainty)}


def fit_and_build_map(
    name: DescriptorName, views: Sequence[View], config: Any, run: Run
) -> dict[str, Tensor]:
    """Fit a descriptor of the table of descriptors to the views, and build their map with it."""
    return build_map(views, fit_descriptor(name, views, run, config), run)


def map_of_vectors(views: Sequence[View], vectors_ND: Tensor) -> dict[str, Tensor]:
    """Vectors, poses and names of the mapping images; those that show nothing are left out.

    Raises:
        InputError: none shows anything.
    """
    shown = vectors_ND.any(dim=1).nonzero()[:, 0].tolist()
    if not shown:
        raise InputError(
            f"none of the {len(views)} mapping images (from {views[0].name} on) has any contrast: "
            "look at them, are they black?"
        )
    cam_from_world = Rigid3d.stack([views[index].cam_from_world for index in shown])
    return {
        # Half precision is far finer than two photos of one place are alike.
        "descriptors": vectors_ND[shown].half(),
        "rotations": cam_from_world.rotation,
        "translations": cam_from_world.translation,
        "names": text_to_tensor([views[index].name for index in shown]),
    }


def localizer(
    tensors: Tensors,
    name: DescriptorName,
    config: Any,
    min_confidence: float,
    num_blended: int = 1,
    blend: Blend | None = None,
) -> RetrievalLocalizer:
    """Answers from a map that `build_map` made with a descriptor of that name and config."""
    state = descriptor_state(tensors)
    return RetrievalLocalizer(
        tensors,
        open_descriptor(name, state, config).describe_known,
        Certainty.from_tensor(tensors["certainty"]),
        min_confidence,
        num_blended,
        blend,
    )


def descriptor_state(tensors: Tensors) -> Mapping[str, Tensor]:
    """The part of a map that is the descriptor's."""
    return {
        name.removeprefix(_STATE): value
        for name, value in tensors.items()
        if name.startswith(_STATE)
    }


class RetrievalLocalizer:
    """Answers with the pose of the view whose vector has the largest inner product.

    Args:
        tensors: what `map_of_vectors` made.
        describe: as it described the views.
        certainty: how similarities become confidences; None: there are none.
        min_confidence: below it a query is declined.
        num_blended: views that `blend` makes a pose of.
        blend: their poses to that of the query; None: that of the most similar view.
    """

    def __init__(
        self,
        tensors: Tensors,
        describe: Describe,
        certainty: Certainty | None = None,
        min_confidence: float = 0.0,
        num_blended: int = 1,
        blend: Blend | None = None,
    ) -> None:
        self._describe = describe
        self._cam_from_world = Rigid3d(tensors["rotations"], tensors["translations"])
        self._names = tensor_to_text(tensors["names"])
        self._vectors_ND = tensors["descriptors"]
        self._index = DescriptorIndex.build(tensors["descriptors"])
        self._certainty = certainty
        self._min_confidence = min_confidence
        self._num_blended = num_blended
        self._blend = blend

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query; the camera is not looked at."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> PoseEstimate:
        """Declines what shows nothing, and what is not like any view."""
        vector_D = self._describe(query.image)
        if not bool(vector_D.any()):
            return PoseEstimate(None)
        # One by one: the sums of a batch are ordered otherwise, and ties would depend on company.
        similarity_K, nearest_K = self._index.search(vector_D, self._num_blended)
        confidence = None
        if self._certainty is not None:
            confidence = self._certainty(float(similarity_K[0]))
            if confidence < self._min_confidence:
                return PoseEstimate(None)
        best = int(nearest_K[0])
        pose = self._cam_from_world[best]
        if self._blend is not None:
            vectors_KD = self._vectors_ND[nearest_K].float()
            vector_D = functional.normalize(vector_D, dim=0)
            pose = self._blend(self._cam_from_world[nearest_K], vectors_KD, vector_D)
        return PoseEstimate(pose, confidence=confidence, reference=self._names[best])
