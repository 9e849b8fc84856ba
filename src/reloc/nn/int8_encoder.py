"""The dense encoder in 8-bit whole numbers, which processors without fast bf16 are fast at.

Activations are uint8 with one scale a layer, from the largest values that were seen over images
that the encoder was trained on; weights are int8 with a scale for each output channel (Jacob et
al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
CVPR 2018). What blocks add up stays in fp32. No gradients pass.
"""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.nn.encoder import GREY_MEAN, GREY_STD, Encoder

# A layer like the encoder's, on a smaller map; of so many tries the fastest counts.
_CHANNELS, _SIDE, _TRIES = 96, 32, 7
# Grey values are whole numbers already; what stands for the mean grey is the zero that pads.
_GREY_ZERO = round(255 * GREY_MEAN)
_GREY_SCALE = 1 / (255 * GREY_STD)


@torch.no_grad()
def largest_inputs(encoder: Encoder, greys: Iterable[Tensor]) -> dict[str, float]:
    """The largest value that each convolution of an encoder is given, but for the first.

    Args:
        encoder: in fp32.
        greys: images (B, 1, H, W) in [0, 1].
    """
    largest: dict[str, float] = {}

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[name] = max(largest.get(name, 0.0), float(inputs[0].max()))

    _first, *others = [
        name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)
    ]
    hooks = [
        encoder.get_submodule(name).register_forward_pre_hook(functools.partial(see, name))
        for name in others
    ]
    for grey_B1HW in greys:
        encoder(grey_B1HW)
    for hook in hooks:
        hook.remove()
    return largest


@functools.cache
@torch.no_grad()
def gain_by_int8() -> float:
    """How many times as fast as in fp32 or bf16, whichever is faster, a convolution is here.

    Measured, once, in some tens of milliseconds. 0 where there is no such arithmetic, or a wrong
    one: older processors add pairs of products up in 16 bits, which overflow.
    """
    # On "meta": random weights would draw from the process's random state.
    layer = nn.Conv2d(_CHANNELS, _CHANNELS, 3, bias=False, device="meta").to_empty(device="cpu")
    layer.requires_grad_(False)
    layer.weight.fill_(1.0)
    levels = torch.full((1, _CHANNELS, _SIDE, _SIDE), 255, dtype=torch.uint8)
    levels = levels.contiguous(memory_format=torch.channels_last)
    values = levels.float()
    try:
        convolution = _Convolution(layer, 1.0, 0, None)
        if not torch.allclose(convolution(levels), layer(values), rtol=1e-3):
            return 0.0
    except (RuntimeError, AttributeError, NotImplementedError):
        return 0.0

    def fastest_s(convolve: Callable[[], Tensor]) -> float:
        taken_s = []
        for _ in range(_TRIES):
            started = time.perf_counter()
            convolve()
            taken_s.append(time.perf_counter() - started)
        return min(taken_s)

    halved, half_layer = values.bfloat16(), copy.deepcopy(layer).bfloat16()
    others_s = min(fastest_s(lambda: layer(values)), fastest_s(lambda: half_layer(halved)))
    return others_s / fastest_s(lambda: convolution(levels))


class Int8Encoder(nn.Module):
    """As the encoder that it is made of, but for rounding: cosines of 0.999 to its codes.

    Args:
        encoder: in fp32, on the processor.
        largest: of each convolution's inputs, as `largest_inputs` finds them.
    """

    def __init__(self, encoder: Encoder, largest: Mapping[str, float]) -> None:
        super().__init__()
        self.size = encoder.size
        scale = {name: value / 255 for name, value in largest.items()}
        stem = [f"stem.{number}" for number in (0, 2, 4, 6)]
        scale[stem[0]] = _GREY_SCALE

        def convolution(name: str, then: str | None = None) -> _Convolution:
            layer = encoder.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            zero = _GREY_ZERO if name == stem[0] else 0
            return _Convolution(layer, scale[name], zero, scale[then] if then else None)

        self._stem = [
            *(convolution(name, then) for name, then in itertools.pairwise(stem)),
            convolution(stem[-1]),
        ]
        self._blocks = [
            (
                scale[f"blocks.{number}.first"],
                convolution(f"blocks.{number}.first", f"blocks.{number}.second"),
                convolution(f"blocks.{number}.second"),
            )
            for number in range(encoder.size.num_blocks)
        ]
        self._projected_scale, self._project = scale["project"], convolution("project")

    @property
    def device(self) -> torch.device:
        """Where images have to be."""
        return torch.device("cpu")

    @torch.no_grad()
    def forward(self, grey_B1HW: Tensor) -> Tensor:
        """Codes (B, C, H // 8, W // 8) with mean square 1, from grey values in [0, 1]."""
        levels = (255 * grey_B1HW).round().clamp(0, 255).to(torch.uint8)
        hidden = levels.contiguous(memory_format=torch.channels_last)
        for convolution in self._stem:
            hidden = convolution(hidden)
        for scale, first, second in self._blocks:
            hidden = second.add_to(hidden, first(_rectified_levels(hidden, scale)))
        code = self._project(_rectified_levels(hidden, self._projected_scale))
        return functional.normalize(code, dim=1) * self.size.code**0.5


class _Convolution:
    """A convolution of uint8 levels, rectified to levels or left in fp32.

    Args:
        layer: in fp32.
        scale, zero: of the levels that it is given: (level - zero) * scale is the value.
        next_scale: of the levels that it gives, their zero being 0; None: it gives fp32.
    """

    def __init__(self, layer: nn.Conv2d, scale: float, zero: int, next_scale: float | None) -> None:
        weights = layer.weight.detach()
        scale_C = (weights.abs().amax((1, 2, 3)) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        levels = (weights / scale_C[:, None, None, None]).round().to(torch.int8)
        window = layer.stride, layer.padding, layer.dilation, layer.groups
        packed = torch.ops.onednn.qconv_prepack(levels, scale_C, scale, zero, *window, None)
        zeros_C = torch.zeros(len(scale_C), dtype=torch.int64)
        self._factors = scale, zero, packed, scale_C, zeros_C
        self._window = layer.bias, *window
        self._next_scale = next_scale

    def __call__(self, levels: Tensor) -> Tensor:
        convolve = torch.ops.onednn.qconv2d_pointwise.default
        if self._next_scale is None:
            form = 1.0, 0, torch.float32, "none", [], None
        else:
            form = self._next_scale, 0, torch.uint8, "relu", [], None
        return convolve(levels, *self._factors, *self._window, *form)

    def add_to(self, sums: Tensor, levels: Tensor) -> Tensor:
        """What becomes of the levels, added to fp32 `sums` in place."""
        convolve = torch.ops.onednn.qconv2d_pointwise.binary
        form = 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, None, [], None
        return convolve(levels, *self._factors, sums, *self._window, *form)


def _rectified_levels(values: Tensor, scale: float) -> Tensor:
    return (values / scale).round_().clamp_(0, 255).to(torch.uint8)
