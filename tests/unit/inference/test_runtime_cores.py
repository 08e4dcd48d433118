import threading
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.inference.cores import CoreBudget


def waiting(budget: CoreBudget) -> int:
    return len(budget._line)


class Taker(threading.Thread):
    """Takes cores and holds them until told to let go."""

    def __init__(self, budget: CoreBudget, cores: int) -> None:
        super().__init__(daemon=True)
        self.budget, self.cores = budget, cores
        self.has, self.may_go = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.budget.use(self.cores):
            self.has.set()
            assert self.may_go.wait(10)

    def finish(self) -> None:
        self.may_go.set()
        self.join(10)


def until_waiting(budget: CoreBudget, count: int) -> None:
    while waiting(budget) < count:
        threading.Event().wait(0.001)


def test_what_fits_goes_at_once_and_what_does_not_waits() -> None:
    budget = CoreBudget(2)
    first, second = Taker(budget, 1), Taker(budget, 1)
    assert first.has.wait(10)
    assert second.has.wait(10)
    third = Taker(budget, 1)
    until_waiting(budget, 1)
    assert not third.has.is_set()
    first.finish()
    assert third.has.wait(10)
    second.finish()
    third.finish()


def test_a_taker_of_all_cores_is_not_overtaken_by_small_ones() -> None:
    budget = CoreBudget(2)
    decoder = Taker(budget, 1)
    assert decoder.has.wait(10)
    model = Taker(budget, 2)
    until_waiting(budget, 1)
    late = Taker(budget, 1)
    until_waiting(budget, 2)
    assert not late.has.is_set()
    decoder.finish()
    assert model.has.wait(10)
    assert not late.has.is_set()
    model.finish()
    assert late.has.wait(10)
    late.finish()


def test_who_asks_for_more_than_there_is_gets_all() -> None:
    with CoreBudget(2).use(8):
        pass


def test_cores_come_back_when_the_work_breaks() -> None:
    budget = CoreBudget(1)
    with pytest.raises(OSError, match="broken"), budget.use():
        raise OSError("broken")
    with budget.use():
        pass


def test_a_budget_without_cores_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="at least one"):
        CoreBudget(0)


@settings(max_examples=20, deadline=None)
@given(cores=st.integers(1, 4), wants=st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_never_more_cores_are_in_use_than_there_are(cores: int, wants: list[int]) -> None:
    budget = CoreBudget(cores)
    lock = threading.Lock()
    used = most = 0

    def work(want: int) -> None:
        nonlocal used, most
        with budget.use(want):
            with lock:
                used += min(want, cores)
                most = max(most, used)
            with lock:
                used -= min(want, cores)

    with ExitStack() as stack:
        for want in wants:
            thread = threading.Thread(target=work, args=(want,))
            thread.start()
            stack.callback(thread.join)
    assert 0 < most <= cores
    assert used == 0
