"""Tickets: who has to wait so that each user's events keep their order of arrival."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

GONE = -1


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """The place of one submission in the queues of all its users."""

    what: T
    cost: int
    users: dict[bytes, int]
    ahead: int = 0
    ready: bool = False


class Tickets(Generic[T]):
    """Submissions that cannot go on yet, because their content is being encoded or because they stand behind such.

    A ticket leaves when it is ready and is the first of each of its users; users do not wait for each other beyond
    sharing a submission. The caller's lock guards it. While it is empty, nobody needs a ticket.
    """

    def __init__(self) -> None:
        self._queues: dict[bytes, deque[Ticket[T]]] = {}
        self._events: dict[bytes, int] = {}
        self.cost = 0

    def __bool__(self) -> bool:
        return bool(self._queues)

    def waits(self, users: Iterable[bytes]) -> bool:
        """Whether a submission of any of the users is waiting."""
        return any(user in self._queues for user in users)

    def events_waiting(self, user: bytes) -> int:
        """How many events of the user are waiting."""
        return self._events.get(user, 0)

    def take(self, what: T, cost: int, users: dict[bytes, int], *, ready: bool) -> Ticket[T]:
        """A ticket behind all earlier ones of the same users; `users` maps each to its number of events.

        What is `ready` must have somebody to wait for: nothing else would ever release it.
        """
        ticket = Ticket(what, cost, users, ready=ready)
        for user, events in users.items():
            queue = self._queues.setdefault(user, deque())
            ticket.ahead += bool(queue)
            queue.append(ticket)
            self._events[user] = self._events.get(user, 0) + events
        self.cost += cost
        return ticket

    def settle(self, ticket: Ticket[T]) -> list[T]:
        """Marks a ticket ready; returns the submissions that may go on now, in order."""
        ticket.ready = True
        return [] if ticket.ahead else [ticket.what, *self._release(self._drop(ticket))]

    def withdraw(self, ticket: Ticket[T]) -> list[T]:
        """Gives a ticket back wherever it stands; returns the submissions that may go on now, in order."""
        return [] if ticket.ahead == GONE else self._release(self._drop(ticket))

    def _release(self, free: list[Ticket[T]]) -> list[T]:
        gone: list[T] = []
        while free:
            ticket = free.pop(0)
            gone.append(ticket.what)
            free.extend(self._drop(ticket))
        return gone

    def _drop(self, ticket: Ticket[T]) -> list[Ticket[T]]:
        """Takes a ticket out of its queues; returns the tickets that become free by it."""
        free: list[Ticket[T]] = []
        ticket.ahead = GONE
        self.cost -= ticket.cost
        for user, events in ticket.users.items():
            queue = self._queues[user]
            was_first = queue[0] is ticket
            queue.remove(ticket)
            self._events[user] -= events
            if not queue:
                del self._queues[user], self._events[user]
            elif was_first:
                follower = queue[0]
                follower.ahead -= 1
                if follower.ready and not follower.ahead:
                    free.append(follower)
        return free
