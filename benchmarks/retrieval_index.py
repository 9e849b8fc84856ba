"""A million image vectors: how long a search takes, and how much of the exact answer it finds.

    OMP_NUM_THREADS=2 python benchmarks/retrieval_index.py --rows benchmarks/retrieval_index.jsonl

Synthetic vectors of norm 1: places in a space of `--intrinsic` dimensions, views of each scattered
round it, and noise in all dimensions, as whitened descriptors of photo collections have them.
Queries are further views of places. The index is saved and opened memory-mapped, and asked one
query at a time. A row says: milliseconds (median and 95th percentile), recall at 10 of the exact
ten, seconds to build, megabytes on the disk.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
import torch
import tyro

from reloc.nn.descriptors.index import DescriptorIndex, IndexConfig
from reloc.provenance import hardware, working_copy_commit

_CHUNK = 50_000


@dataclass(frozen=True)
class Arguments:
    """What to search."""

    rows: Path | None = None
    """File that the row is appended to; printed only, where it is not given."""
    num_vectors: int = 1_000_000
    """In the index."""
    dimensions: int = 256
    """Of a vector."""
    intrinsic: int = 48
    """Of the space in which places lie."""
    num_queries: int = 200
    """Asked one by one."""
    seed: int = 0
    """Of the vectors and of the index."""
    index: IndexConfig = field(default_factory=IndexConfig)
    """How it is searched."""


def synthetic(arguments: Arguments) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, D) float16, 20 views of each place in any order, and queries (Q, D) float32."""
    rng = np.random.default_rng(arguments.seed)
    basis = rng.standard_normal((arguments.intrinsic, arguments.dimensions), dtype=np.float32)
    basis /= np.sqrt(arguments.intrinsic)
    places = rng.standard_normal((arguments.num_vectors // 20, arguments.intrinsic), np.float32)

    def views(of: np.ndarray) -> np.ndarray:
        scattered = places[of] + 0.4 * rng.standard_normal(
            (len(of), arguments.intrinsic), dtype=np.float32
        )
        vectors = scattered @ basis
        vectors += 0.25 * rng.standard_normal(vectors.shape, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    order = rng.permutation(arguments.num_vectors) % len(places)
    vectors = np.empty((arguments.num_vectors, arguments.dimensions), np.float16)
    for start in range(0, len(vectors), _CHUNK):
        vectors[start : start + _CHUNK] = views(order[start : start + _CHUNK])
    return vectors, views(rng.integers(0, len(places), arguments.num_queries))


def exact_ten(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Indices (Q, 10) of the largest inner products."""
    best = np.full((len(queries), 10), -np.inf, np.float32)
    found = np.zeros((len(queries), 10), np.int64)
    for start in range(0, len(vectors), _CHUNK):
        part = vectors[start : start + _CHUNK].astype(np.float32)
        products, indices = faiss.knn(queries, part, 10, faiss.METRIC_INNER_PRODUCT)
        both, where = np.hstack([best, products]), np.hstack([found, indices + start])
        order = np.argsort(-both, axis=1, kind="stable")[:, :10]
        best = np.take_along_axis(both, order, 1)
        found = np.take_along_axis(where, order, 1)
    return found


def main(arguments: Arguments) -> None:
    vectors, queries = synthetic(arguments)
    expected = exact_ten(vectors, queries)
    started = time.perf_counter()
    index = DescriptorIndex.build(vectors, arguments.index, arguments.seed)
    build_s = time.perf_counter() - started
    del vectors
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "index"
        index.save(folder)
        del index
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        index = DescriptorIndex.open(folder, arguments.index)
        milliseconds, recalls = [], []
        asked = torch.from_numpy(queries)
        for query in asked[:5]:
            index.search(query, 10)
        for query, ten in zip(asked, expected, strict=True):
            started = time.perf_counter()
            _, found = index.search(query, 10)
            milliseconds.append(1e3 * (time.perf_counter() - started))
            recalls.append(len(set(found.tolist()) & set(ten.tolist())) / 10)
    row = {
        "num_vectors": arguments.num_vectors,
        "dimensions": arguments.dimensions,
        "intrinsic": arguments.intrinsic,
        "median_ms": round(float(np.median(milliseconds)), 2),
        "p95_ms": round(float(np.percentile(milliseconds, 95)), 2),
        "recall_at_10": round(float(np.mean(recalls)), 4),
        "build_s": round(build_s, 1),
        "disk_mb": round(megabytes, 1),
        "probed_share": arguments.index.probed_share,
        "shortlist": arguments.index.shortlist,
        "num_queries": arguments.num_queries,
        "seed": arguments.seed,
        "threads": faiss.omp_get_max_threads(),
        "hardware": hardware("cpu"),
        "commit": working_copy_commit(),
        "command": shlex.join(["python", "benchmarks/retrieval_index.py", *sys.argv[1:]]),
    }
    print(json.dumps(row))
    if arguments.rows:
        with arguments.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
