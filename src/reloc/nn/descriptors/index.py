"""Nearest image vectors among few, exactly, or among millions, nearly so.

Millions are sorted into cells, of which those nearest to a query are looked through by product
quantised codes (Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", TPAMI
2011, as faiss has it); the best are compared once more, with their vectors themselves, which may
lie on the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from reloc.input_error import InputError
from reloc.maps import new_folder

_VECTORS, _CELLS = "vectors.npy", "cells.faiss"
# Numbers of a vector that share a byte of its code.
_NUMBERS_PER_BYTE = 4
# Vectors, for each cell, that cells and codes are learned from; and learning steps.
_SAMPLES_PER_CELL, _STEPS = 48, 10
# Codes of a byte have 256 values, each of which needs several vectors to be learned from.
_MIN_CELLED = 10_000


@dataclass(frozen=True)
class IndexConfig:
    """How vectors are searched."""

    exact_up_to: int = 50_000
    """So many vectors are compared one by one."""
    cells_per_root: float = 1.0
    """Cells, as a multiple of the square root of the number of vectors."""
    probed_share: float = 0.04
    """Share of the cells that are looked through."""
    shortlist: int = 200
    """Best codes whose vectors are compared."""

    def __post_init__(self) -> None:
        if self.exact_up_to < _MIN_CELLED:
            raise ValueError(
                f"exact_up_to is {self.exact_up_to}; it must be at least {_MIN_CELLED}"
            )
        if not 0 < self.probed_share <= 1:
            raise ValueError(f"probed_share is {self.probed_share}; it must be in (0, 1]")
        if self.cells_per_root <= 0 or self.shortlist < 1:
            raise ValueError("cells_per_root and shortlist must be positive")


class DescriptorIndex:
    """Vectors of norm 1, searched by their inner products.

    Args:
        vectors_ND: float16.
        cells: a faiss.IndexIVFPQ over the same vectors; None where they are compared one by one.
        config: of the search.
    """

    def __init__(self, vectors_ND: np.ndarray, cells: Any, config: IndexConfig) -> None:
        self._vectors_ND = vectors_ND
        self._cells = cells
        self._config = config
        self._exact: faiss.IndexFlatIP | None = None
        if cells is None:
            self._exact = faiss.IndexFlatIP(vectors_ND.shape[1])
            self._exact.add(vectors_ND.astype(np.float32))  # pyright: ignore[reportCallIssue]
        else:
            cells.nprobe = max(1, round(config.probed_share * cells.nlist))

    def __len__(self) -> int:
        return len(self._vectors_ND)

    @staticmethod
    def build(
        vectors_ND: Tensor | np.ndarray, config: IndexConfig | None = None, seed: int = 0
    ) -> DescriptorIndex:
        """An index of vectors (N, D) of norm 1."""
        config = config or IndexConfig()
        vectors = np.asarray(vectors_ND, dtype=np.float16)
        if len(vectors) <= config.exact_up_to:
            return DescriptorIndex(vectors, None, config)
        num_dimensions = vectors.shape[1]
        num_cells = round(config.cells_per_root * len(vectors) ** 0.5)
        # The finest cut into equal parts that is no finer than asked for.
        most = max(1, num_dimensions // _NUMBERS_PER_BYTE)
        codes = next(count for count in range(most, 0, -1) if num_dimensions % count == 0)
        cells = faiss.IndexIVFPQ(
            faiss.IndexFlatIP(num_dimensions),
            num_dimensions,
            num_cells,
            codes,
            8,
            faiss.METRIC_INNER_PRODUCT,
        )
        cells.cp.niter, cells.cp.seed = _STEPS, seed + 1
        cells.pq.cp.niter, cells.pq.cp.seed = _STEPS, seed + 1
        chosen = np.random.default_rng(seed).permutation(len(vectors))
        chosen = np.sort(chosen[: max(_MIN_CELLED, _SAMPLES_PER_CELL * num_cells)])
        cells.train(vectors[chosen].astype(np.float32))  # pyright: ignore[reportCallIssue]
        index = DescriptorIndex(vectors[:0], cells, config)
        index.add(vectors)
        return index

    def add(self, vectors_MD: Tensor | np.ndarray) -> None:
        """Add vectors (M, D): their indices follow those that are there.

        Cells are not learned anew: build the index again after it has grown several times over.

        Raises:
            InputError: the index was opened memory-mapped, which only reads.
        """
        vectors = np.asarray(vectors_MD, dtype=np.float16)
        if isinstance(self._vectors_ND, np.memmap):
            raise InputError("an index that is memory-mapped cannot grow: open it into memory")
        target = self._cells or self._exact
        assert target is not None
        for part in np.array_split(vectors, -(-len(vectors) // 50_000) or 1):
            target.add(part.astype(np.float32))  # pyright: ignore[reportCallIssue]
        self._vectors_ND = np.concatenate([self._vectors_ND, vectors])

    def search(self, query_D: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Inner products and indices, float32 and int64, of the nearest, best first.

        Fewer than `count` where there are not as many, or the probed cells have not.
        """
        query = query_D.float().numpy()[None]
        if self._exact is not None:
            count = min(count, len(self))
            products, found = self._exact.search(query, count)  # pyright: ignore[reportCallIssue]
            return torch.from_numpy(products[0]), torch.from_numpy(found[0])
        assert self._cells is not None
        wanted = max(count, self._config.shortlist)
        _, found = self._cells.search(query, wanted)  # pyright: ignore[reportCallIssue]
        # In order: neighbours on the disk are read together.
        listed = np.sort(found[0][found[0] >= 0])
        products = self._vectors_ND[listed].astype(np.float32) @ query[0]
        best = np.argsort(-products, kind="stable")[:count]
        return torch.from_numpy(products[best]), torch.from_numpy(listed[best])

    def save(self, folder: Path) -> None:
        """Write the index into a new folder.

        Raises:
            InputError: the folder exists, or cannot be written.
        """
        with new_folder(folder) as partial:
            np.save(partial / _VECTORS, self._vectors_ND)
            if self._cells is not None:
                faiss.write_index(self._cells, str(partial / _CELLS))

    @staticmethod
    def open(
        folder: Path, config: IndexConfig | None = None, memory_map: bool = True
    ) -> DescriptorIndex:
        """The index in a folder; memory-mapped, of many vectors only what is asked for is read.

        Raises:
            InputError: there is none, or it is damaged.
        """
        try:
            vectors = np.load(folder / _VECTORS, mmap_mode="r" if memory_map else None)
            cells = None
            if (folder / _CELLS).exists():
                flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if memory_map else 0
                cells = faiss.read_index(str(folder / _CELLS), flags)
        except FileNotFoundError:
            raise InputError(f"{folder} is no index: it has no {_VECTORS}") from None
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{folder} is damaged ({reason}): build the index again") from error
        if cells is not None and cells.ntotal != len(vectors):
            raise InputError(
                f"{folder} is damaged ({cells.ntotal} codes of {len(vectors)} vectors): "
                "build the index again"
            )
        return DescriptorIndex(vectors, cells, config or IndexConfig())
