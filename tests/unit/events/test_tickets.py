"""Tickets against a plain list: every user's order is kept, and nobody waits for a user he does not share."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nextact_server.events.tickets import Ticket, Tickets

USERS = st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), st.integers(0, 5), max_size=3)


class TicketsModel(RuleBasedStateMachine):
    """The model is the list of tickets still there, in the order taken."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets: Tickets[int] = Tickets()
        self.waiting: list[Ticket[int]] = []
        self.ready: set[int] = set()
        self.number = 0

    def _may_go(self) -> list[Ticket[int]]:
        """Tickets that are ready and share no user with an earlier one that stays."""
        blocked: set[bytes] = set()
        free = []
        for ticket in self.waiting:
            if ticket.what in self.ready and not blocked & ticket.users.keys():
                free.append(ticket)
            else:
                blocked |= ticket.users.keys()
        return free

    def _released(self, got: Sequence[int], wanted: Sequence[Ticket[int]]) -> None:
        assert sorted(got) == sorted(ticket.what for ticket in wanted)
        for user in (b"a", b"b", b"c", b"d"):
            of_user = [ticket.what for ticket in wanted if user in ticket.users]
            assert [what for what in got if what in of_user] == of_user, "each user's own go in the order taken"
        self.waiting = [ticket for ticket in self.waiting if ticket not in wanted]

    @rule(users=USERS, ready=st.booleans())
    def take(self, users: dict[bytes, int], ready: bool) -> None:
        waits = any(user in ticket.users for ticket in self.waiting for user in users)
        assert self.tickets.waits(users) is waits
        self.number += 1
        ready = ready and waits  # what is ready and waits for nobody takes no ticket
        ticket = self.tickets.take(self.number, self.number * 10, dict(users), ready=ready)
        self.waiting.append(ticket)
        if ready:
            self.ready.add(self.number)

    @precondition(lambda self: any(ticket.what not in self.ready for ticket in self.waiting))
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([t for t in self.waiting if t.what not in self.ready]))
        self.ready.add(ticket.what)
        self._released(self.tickets.settle(ticket), self._may_go())

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self._released(self.tickets.withdraw(ticket), self._may_go())
        assert self.tickets.withdraw(ticket) == [], "a ticket is given back once"
        assert self.tickets.settle(ticket) == [], "a ticket given back does not go on"

    @invariant()
    def what_waits_is_counted(self) -> None:
        assert not self._may_go()
        assert self.tickets.cost == sum(ticket.cost for ticket in self.waiting)
        assert bool(self.tickets) == any(ticket.users for ticket in self.waiting)
        for user in (b"a", b"b", b"c", b"d"):
            assert self.tickets.waits([user]) == any(user in ticket.users for ticket in self.waiting)
            assert self.tickets.events_waiting(user) == sum(ticket.users.get(user, 0) for ticket in self.waiting)


TestTicketsModel = TicketsModel.TestCase
TestTicketsModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_others_overtake_a_submission_that_is_not_ready() -> None:
    tickets: Tickets[str] = Tickets()
    slow = tickets.take("slow", 1, {b"a": 1}, ready=False)
    other = tickets.take("other", 1, {b"b": 1}, ready=False)
    assert tickets.settle(other) == ["other"]
    behind = tickets.take("behind", 1, {b"a": 1, b"b": 1}, ready=True)
    assert not tickets.settle(behind), "one of its users still waits"
    assert tickets.settle(slow) == ["slow", "behind"]
    assert not tickets
    assert tickets.cost == 0


def test_a_long_chain_goes_at_once_when_what_it_waited_for_is_withdrawn() -> None:
    tickets: Tickets[int] = Tickets()
    first = tickets.take(0, 1, {b"a": 1}, ready=False)
    for number in range(1, 2000):
        tickets.take(number, 1, {b"a": 1}, ready=True)
    assert tickets.withdraw(first) == list(range(1, 2000))
