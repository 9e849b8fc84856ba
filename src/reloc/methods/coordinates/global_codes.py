"""A code of the whole image beside that of each cell, so that places that look alike differ.

Source: Wang et al., "GLACE: global local accelerated coordinate encoding", CVPR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from reloc.nn.descriptors.descriptor import Descriptor


@dataclass(frozen=True, eq=False)
class GlobalCodes:
    """Codes of the mapping views, one for each image and not for each of its cells.

    Attributes:
        descriptor: that they are from, and those of queries will be.
        codes_VD: float32, rows of norm 1; zeros for a view that shows nothing.
        noise: standard deviation of what is added to each number in training.
        generator: of that noise; None: none is added.
    """

    descriptor: Descriptor
    codes_VD: Tensor
    noise: float
    generator: torch.Generator | None = None

    def noisy(self, generator: torch.Generator) -> GlobalCodes:
        """The same with noise, which is another one whenever a code is looked up."""
        return replace(self, generator=generator)

    def of_views(self, view_N: Tensor) -> Tensor:
        """The codes (N, D) of the views of cells; with noise, again of norm 1.

        Without noise a head would learn each mapping image by heart: what it is to learn is that
        images with similar codes are of one place.
        """
        codes_ND = self.codes_VD[view_N]
        if self.generator is None:
            return codes_ND
        noise_ND = torch.randn(
            codes_ND.shape, generator=self.generator, device=self.generator.device
        )
        return functional.normalize(codes_ND + self.noise * noise_ND, dim=1)


def with_global(codes_NC: Tensor, global_ND: Tensor) -> Tensor:
    """Codes (N, C + D) of cells that are told of their images."""
    # As large, number by number, as those of the cells, whose mean square is 1.
    return torch.cat([codes_NC, global_ND.shape[1] ** 0.5 * global_ND], dim=1)
