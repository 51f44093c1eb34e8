"""Work that is begun before its turn, so that reading, computing and writing overlap."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")


def ahead(pool: Executor, work: Callable[[str], T], cases: Iterable[str],
          count: int) -> Iterator[tuple[str, Future[T]]]:
    """Yield each case with the work on it, which is begun for some cases before they are asked for."""
    yield from delayed(((case, pool.submit(work, case)) for case in cases), count)


def delayed(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield items in their order, taking each `count` items before it is yielded."""
    taken: deque[T] = deque()
    for item in items:
        taken.append(item)
        if len(taken) > count:
            yield taken.popleft()
    yield from taken
