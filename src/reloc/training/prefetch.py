"""Make the next items beside the work on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    make: Callable[[Item], Result], items: Iterable[Item], num_ahead: int = 2, num_threads: int = 1
) -> Iterator[Result]:
    """`map(make, items)`, in order; `num_ahead` results are made before their turn, in threads."""
    remaining = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        coming: deque[Future[Result]] = deque(
            pool.submit(make, item) for item in islice(remaining, num_ahead)
        )
        try:
            while coming:
                result = coming.popleft().result()
                coming.extend(pool.submit(make, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in coming:
                future.cancel()
