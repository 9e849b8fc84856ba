"""NetVLAD: VLAD whose words are weighed smoothly, so that they can be trained.

Source: Arandjelović et al., "NetVLAD: CNN architecture for weakly supervised place recognition",
CVPR 2016. Here its words begin as k-means centres; `training/train_netvlad.py` goes on from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.nn.descriptors.codes import ImageCodes
from reloc.nn.descriptors.descriptor import (
    Descriptor,
    DescriptorKind,
    describe_views,
    spread_over,
)
from reloc.nn.descriptors.vlad import learn_vocabulary
from reloc.nn.descriptors.whitening import Whitening, fit_whitening
from reloc.nn.weights import EncoderName
from reloc.scenes.scene import View

# Views, and codes in all, from which the words are learned.
_VOCABULARY_VIEWS, _VOCABULARY_CODES = 100, 50_000
# By how much the nearest word outweighs the second at first, on average (appendix A of the paper).
_FIRST_TO_SECOND = 100.0


@dataclass(frozen=True)
class NetVladConfig:
    """Settings of NetVLAD."""

    encoder: EncoderName = "base"
    """The shared encoder."""
    short_side_px: int = 240
    """Images are resized to this shorter side."""
    num_words: int = 64
    """Words of the vocabulary."""
    num_dimensions: int = 256
    """Of the vectors, after whitening; at most two for three mapping images."""

    def __post_init__(self) -> None:
        for name in ("short_side_px", "num_words", "num_dimensions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


class NetVladLayer(nn.Module):
    """Codes of images to their vectors.

    Args:
        words_KC: the words that codes of norm 1 are compared with.
        sharpness: of the first assignment: weights are the softmax of -sharpness d².
    """

    def __init__(self, words_KC: Tensor, sharpness: float) -> None:
        super().__init__()
        self.words = nn.Parameter(words_KC.clone())
        self.weight = nn.Parameter(2 * sharpness * words_KC)
        self.bias = nn.Parameter(-sharpness * words_KC.square().sum(1))

    def forward(self, codes_BNC: Tensor) -> Tensor:
        """(B, K * C) of norm 1 from codes (B, N, C): equations 4 and, of each word, L2 norms."""
        codes_BNC = functional.normalize(codes_BNC, dim=-1)
        shares_BNK = functional.linear(codes_BNC, self.weight, self.bias).softmax(-1)
        sums_BKC = shares_BNK.mT @ codes_BNC
        residuals_BKC = sums_BKC - shares_BNK.sum(1)[..., None] * self.words
        return functional.normalize(functional.normalize(residuals_BKC, dim=-1).flatten(1), dim=-1)


class NetVlad:
    """NetVLAD with the words and the whitening of a scene."""

    def __init__(self, codes: ImageCodes, layer: NetVladLayer, whitening: Whitening) -> None:
        self.codes = codes
        self.layer = layer.requires_grad_(False)
        self._whitening = whitening

    def describe(self, image_3HW: Tensor) -> Tensor:
        """(D,) float32 of norm 1; zeros where the image has no contrast."""
        return self._whitening(self.raw(image_3HW))

    def raw(self, image_3HW: Tensor) -> Tensor:
        """(K * C,) of norm 1, before whitening."""
        codes_NC = self.codes(image_3HW)
        if codes_NC is None:
            return torch.zeros(self.layer.words.numel())
        return self.layer(codes_NC[None])[0]

    def describe_known(self, image_3HW: Tensor) -> Tensor:
        """`describe` times how much of the image is like mapping images at all, in [0, 1]."""
        return self._whitening.known(self.raw(image_3HW))

    def state(self) -> dict[str, Tensor]:
        """Words, whitening, and which encoder."""
        layer = {f"netvlad_{name}": value for name, value in self.layer.state_dict().items()}
        return {**layer, **self._whitening.state(), **self.codes.state()}


def initial_layer(
    views: Sequence[View], codes: ImageCodes, num_words: int, seed: int
) -> NetVladLayer:
    """The layer before training: words by k-means of the views' codes.

    Raises:
        InputError: an image cannot be read, or none has any contrast.
    """
    chosen = spread_over(len(views), _VOCABULARY_VIEWS)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in chosen:
        codes_NC = codes(views[index].read_image())
        if codes_NC is not None:
            order_N = torch.randperm(len(codes_NC), generator=generator)
            found.append(codes_NC[order_N[: _VOCABULARY_CODES // len(chosen)]])
    if not found:
        raise InputError(
            f"none of the {len(views)} mapping images (from {views[0].name} on) has any contrast: "
            "look at them, are they black?"
        )
    codes_NC = functional.normalize(torch.cat(found), dim=1)
    words_KC = learn_vocabulary(codes_NC, num_words, seed)
    nearest_N2 = torch.cdist(codes_NC, words_KC).square().topk(min(2, len(words_KC)), largest=False)
    gap = float((nearest_N2.values[:, -1] - nearest_N2.values[:, 0]).mean())
    return NetVladLayer(words_KC, math.log(_FIRST_TO_SECOND) / max(gap, 1e-6))


def with_whitening(
    codes: ImageCodes,
    layer: NetVladLayer,
    views: Sequence[View],
    num_dimensions: int,
    run: Run,
) -> tuple[NetVlad, Tensor]:
    """NetVLAD of a layer, with a whitening learned from the views, and the vectors of these."""
    bare = NetVlad(codes, layer, fit_whitening(torch.zeros(1, 1), 0))
    raw_NL = describe_views(bare.raw, views, run)
    whitening = fit_whitening(raw_NL, num_dimensions)
    return NetVlad(codes, layer, whitening), whitening(raw_NL)


def fit(views: Sequence[View], config: NetVladConfig, run: Run) -> tuple[Descriptor, Tensor]:
    """NetVLAD as it is before training: words by k-means, and a whitening, of the views' images."""
    codes = ImageCodes(config.encoder, config.short_side_px)
    layer = initial_layer(views, codes, config.num_words, run.seed)
    return with_whitening(codes, layer, views, config.num_dimensions, run)


def open_state(state: Mapping[str, Tensor], config: NetVladConfig) -> Descriptor:
    """NetVLAD with the words and whitening of a map."""
    codes = ImageCodes(config.encoder, config.short_side_px, state)
    layer = NetVladLayer(state["netvlad_words"], 1.0)
    layer.load_state_dict({name: state[f"netvlad_{name}"] for name in ("words", "weight", "bias")})
    return NetVlad(codes, layer, Whitening.from_state(state))


KIND = DescriptorKind(NetVladConfig, fit, open_state)
