"""Networks whose weights are about to be read from a file: nothing is drawn for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = {Tensor.normal_, Tensor.uniform_}


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors on "meta" as they are where random numbers would be drawn for them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == nn.init.__name__:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def unfilled() -> Iterator[None]:
    """Networks that are made within have their parameters on "meta", without values.

    Random weights, which those of the file replace, would draw from the process's random state. And
    to draw from a normal distribution on "meta" imports torch's compiler, which takes seconds.
    """
    with torch.device("meta"), _NothingDrawn():
        yield
