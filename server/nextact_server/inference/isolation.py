"""Running a batch so that one bad item costs only its own caller."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from nextact_server.inference.batch_errors import WrongResultCount

__all__ = ["run_isolated"]

T = TypeVar("T")
R = TypeVar("R")


def run_isolated(
    name: str, run: Callable[[Sequence[T]], Sequence[R | BaseException]], items: Sequence[T]
) -> tuple[list[R | BaseException], int]:
    """Run `items` as one batch, and by halves where that raises, until what fails fails alone.

    Returns, in the order of `items`, a result or the error in its place, and how often `run` was called: once if all
    is well, 1 + 2 log2(n) times for one bad item among n.

    Raises:
        WrongResultCount: a call returned another number of results than it got items.
        MemoryError: as raised by `run`; trying again by halves would only thrash.
        BaseException: whatever else `run` raised that is not an Exception.
    """
    try:
        results = run(items)
    except MemoryError:
        raise
    except Exception as error:
        if len(items) == 1:
            return [error], 1
        middle = len(items) // 2
        first, first_runs = run_isolated(name, run, items[:middle])
        second, second_runs = run_isolated(name, run, items[middle:])
        return first + second, 1 + first_runs + second_runs
    if not hasattr(results, "__len__"):
        raise WrongResultCount(name, len(items), f"a {type(results).__name__}")
    if len(results) != len(items):
        raise WrongResultCount(name, len(items), str(len(results)))
    return list(results), 1
