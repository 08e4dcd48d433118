"""The laws of the window: nothing lost, nothing twice, never too much under way, always in order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nextact.stream_window import StreamWindow, UnexpectedAcknowledgement, WindowLimits


class AnyStream(RuleBasedStateMachine):
    """A source, a window and a server on connections that break whenever they like."""

    def __init__(self) -> None:
        super().__init__()
        self.window: StreamWindow[int] = StreamWindow()
        self.limits = WindowLimits(max_messages=1)
        self.sizes: dict[int, int] = {}
        self.on_the_wire: list[int] = []  # sent on this connection, not acknowledged
        self.sent_here: list[int] = []
        self.acknowledged: list[int] = []
        self.complete = False

    @precondition(lambda self: self.window.wants_more)
    @rule(size=st.integers(1, 120))
    def source_gives(self, size: int) -> None:
        number = len(self.sizes) + 1
        assert self.window.add(number, size) == number
        self.sizes[number] = size

    @precondition(lambda self: not self.complete)
    @rule()
    def source_ends(self) -> None:
        self.window.complete()
        self.complete = True

    @precondition(lambda self: self.window.can_send)
    @rule()
    def sends(self) -> None:
        message = self.window.send()
        self.on_the_wire.append(message)
        self.sent_here.append(message)

    @precondition(lambda self: self.on_the_wire)
    @rule()
    def server_acknowledges(self) -> None:
        number = self.on_the_wire.pop(0)
        assert self.window.acknowledge(number) == number
        self.acknowledged.append(number)

    @rule(number=st.integers(0, 50))
    def server_acknowledges_anything(self, number: int) -> None:
        if number not in self.on_the_wire[:1]:
            before = self.window.unacknowledged
            with pytest.raises(UnexpectedAcknowledgement):
                self.window.acknowledge(number)
            assert self.window.unacknowledged == before

    @rule(messages=st.integers(1, 5), size=st.integers(1, 200))
    def server_announces(self, messages: int, size: int) -> None:
        # A server may shrink the window only on a new connection; in one it announces once, before acknowledging.
        if messages >= len(self.on_the_wire) and size >= sum(self.sizes[n] for n in self.on_the_wire):
            self.limits = WindowLimits(messages, size)
            self.window.announce(self.limits)

    @rule()
    def connection_breaks(self) -> None:
        self.window.lose()
        self.limits = WindowLimits(max_messages=1)
        self.on_the_wire.clear()
        self.sent_here.clear()

    @invariant()
    def nothing_is_acknowledged_twice_or_out_of_order(self) -> None:
        assert self.acknowledged == list(range(1, len(self.acknowledged) + 1))

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.window.unacknowledged + len(self.acknowledged) == len(self.sizes)

    @invariant()
    def numbers_rise_by_one_on_every_connection_from_the_oldest_unacknowledged(self) -> None:
        if self.sent_here:
            assert self.sent_here == list(range(self.sent_here[0], self.sent_here[0] + len(self.sent_here)))

    @invariant()
    def the_window_is_never_exceeded(self) -> None:
        under_way = sum(self.sizes[n] for n in self.on_the_wire)
        assert len(self.on_the_wire) <= self.limits.max_messages
        assert under_way <= self.limits.max_bytes or len(self.on_the_wire) == 1

    @invariant()
    def whatever_waits_can_leave_once_nothing_is_under_way(self) -> None:
        if not self.on_the_wire and self.window.unacknowledged:
            assert self.window.can_send

    def teardown(self) -> None:
        if not self.complete:
            self.window.complete()
        while not self.window.done:
            while self.window.can_send:
                self.on_the_wire.append(self.window.send())
            self.server_acknowledges()
        assert self.acknowledged == list(self.sizes)


TestAnyStream = AnyStream.TestCase
TestAnyStream.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_until_the_server_has_announced_its_window_one_message_goes() -> None:
    window: StreamWindow[str] = StreamWindow()
    window.add("a", 1)
    window.add("b", 1)
    assert window.send() == "a"
    assert not window.can_send
    window.announce(WindowLimits(2, 100))
    assert window.send() == "b"


def test_a_message_larger_than_the_window_goes_alone() -> None:
    window: StreamWindow[str] = StreamWindow()
    window.announce(WindowLimits(10, 100))
    window.add("small", 1)
    window.add("large", 500)
    window.send()
    assert not window.can_send
    window.acknowledge(1)
    assert window.send() == "large"


def test_the_source_is_read_a_bounded_way_ahead() -> None:
    window: StreamWindow[int] = StreamWindow()
    taken = 0
    while window.wants_more:
        taken += 1
        window.add(taken, 1)
    assert taken == 2


@pytest.mark.parametrize(
    ("metadata", "limits"),
    [
        ([("nextact-window", "messages=3,bytes=1000")], WindowLimits(3, 1000)),
        ([("other", "x"), ("nextact-window", " bytes=9 , messages=2 , later=5")], WindowLimits(2, 9)),
        ([("nextact-window", "messages=0,bytes=-1")], WindowLimits()),
        ([("nextact-window", "nonsense")], WindowLimits()),
        ([], WindowLimits()),
        (None, WindowLimits()),
    ],
)
def test_the_window_is_read_from_metadata_and_defaults_where_it_says_nothing(
    metadata: list[tuple[str, str]] | None, limits: WindowLimits
) -> None:
    assert WindowLimits.from_metadata(metadata) == limits
