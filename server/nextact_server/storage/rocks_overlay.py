"""What is durable but not compacted, generation upon generation, laid over the database by everything that reads."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.rocks_generation import NEVER, Generation
from nextact_server.storage.rocks_records import Records, concat
from nextact_server.storage.rocks_segments import Segment
from nextact_server.storage.seam import NO_TIME, ItemRecord, UserColumns


@dataclass(frozen=True, slots=True)
class Layer:
    """One generation's part of one user's past, of the moment when it was asked for."""

    generation: Generation
    newest: int
    """Number of the newest event, -1 for none."""
    applied: int
    erased_at: int
    """Events below this number are gone; `NEVER`: no erasure here."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One generation's part of n users' columns, of the moment when it was asked for."""

    base: int
    added: UserColumns
    erased_at: NDArray[np.int64]


class Overlay:
    """The generations from the oldest, which is compacted next, to the youngest, which grows. Thread-safe.

    A reader asks here first and the database afterwards. What was compacted in between is then seen twice: the facts of
    a user tell up to which event the database has it, and a generation whose events they include counts no more.
    """

    def __init__(self, next_number: int) -> None:
        self.changed = threading.Condition()
        """Held while generations change; notified when they have."""
        self._generations = [Generation(next_number)]
        self._suppressed: set[bytes] = set()
        self.compactions = 0
        """How many generations were dropped so far."""

    def reset(self, next_number: int, suppressed: set[bytes]) -> None:
        """Forgets everything; the database has all below a number, and these users on its suppression list."""
        with self.changed:
            self._generations = [Generation(next_number)]
            self._suppressed = suppressed
            self.changed.notify_all()

    # Changes --------------------------------------------------------------------------------------------------------

    @property
    def next_number(self) -> int:
        """Number of the next segment."""
        return self._generations[-1].stop

    @property
    def oldest(self) -> int:
        """Number of the first event that is not compacted."""
        return self._generations[0].base

    @property
    def held(self) -> int:
        """How many events are not compacted."""
        with self.changed:
            return sum(map(len, self._generations))

    @property
    def erased(self) -> set[bytes]:
        """The users whom the generations erase."""
        with self.changed:
            return {user for generation in self._generations for user in generation.erased}

    @property
    def segments(self) -> int:
        """How many segments are not compacted."""
        with self.changed:
            return sum(generation.segments for generation in self._generations)

    @property
    def youngest(self) -> Generation:
        """The generation that grows."""
        return self._generations[-1]

    def apply(self, segment: Segment, forgotten_messages: Iterable[bytes]) -> None:
        """Makes a segment visible; `forgotten_messages` are those that the users whom it erases had before."""
        with self.changed:
            self._generations[-1].apply(segment, forgotten_messages)

    def wake(self) -> None:
        """Lets those who wait on `changed` look around: what they wait for may never come."""
        with self.changed:
            self.changed.notify_all()

    def seal(self) -> None:
        """Lets the youngest generation grow no more, unless it is empty. Called by whoever applies segments."""
        with self.changed:
            if self._generations[-1].segments:
                self._generations.append(Generation(self._generations[-1].stop))
                self.changed.notify_all()

    def sealed(self) -> Generation | None:
        """The oldest generation that grows no more."""
        with self.changed:
            return self._generations[0] if len(self._generations) > 1 else None

    def records(self, generation: Generation) -> Records:
        """All events of a generation."""
        with self.changed:
            parts = generation.parts()
        return concat(parts)

    def drop(self, generation: Generation) -> None:
        """Forgets the oldest generation: the database has it."""
        with self.changed:
            assert self._generations[0] is generation
            self._suppressed |= generation.suppressed
            del self._generations[0]
            self.compactions += 1
            self.changed.notify_all()

    # Questions, each of one moment ----------------------------------------------------------------------------------

    def layers(self, user: bytes) -> list[Layer]:
        """What the generations say of a user, youngest first, without those that say nothing."""
        with self.changed:
            found = []
            for generation in reversed(self._generations):
                newest, applied = generation.newest(user)
                erased_at = generation.erased.get(user, NEVER)
                if newest >= 0 or erased_at != NEVER:
                    found.append(Layer(generation, newest, applied, erased_at))
            return found

    def columns(self, users: list[bytes]) -> list[Columns]:
        """What the generations say of many users, youngest first."""
        with self.changed:
            found = []
            for generation in reversed(self._generations):
                if not generation.segments:
                    continue
                slots = generation.slots(users)
                added = generation.columns(np.maximum(slots, 0))
                here = slots >= 0
                erased = generation.erased
                found.append(
                    Columns(
                        generation.base,
                        UserColumns(
                            np.where(here, added.events_seen, 0),
                            np.where(here, added.last_time_us, NO_TIME),
                            here & added.has_history,
                        ),
                        np.array([erased.get(user, NEVER) for user in users], np.int64)
                        if erased
                        else np.full(len(users), NEVER),
                    )
                )
            return found

    def outcomes(self, messages: list[bytes]) -> list[int]:
        """What became of messages: -1 for those of whom the generations know nothing, 0 for those forgotten."""
        with self.changed:
            outcomes = [-1] * len(messages)
            for generation in self._generations:
                known = generation.message_ids
                if not known.keys().isdisjoint(messages):
                    outcomes = [known.get(message, outcomes[at]) for at, message in enumerate(messages)]
            return outcomes

    def knows_any(self, messages: list[bytes]) -> bool:
        """Whether the generations know anything of any of these messages; quicker than `outcomes`."""
        with self.changed:
            return any(not generation.message_ids.keys().isdisjoint(messages) for generation in self._generations)

    def suppressed(self, users: Callable[[], list[bytes]], n: int) -> NDArray[np.bool_]:
        """Which of n users are suppressed, by anything; `users` is asked for them only where there is a list at all."""
        with self.changed:
            lists = [self._suppressed, *(generation.suppressed for generation in self._generations)]
            lists = [one for one in lists if one]
            if not lists:
                return np.zeros(n, np.bool_)
            return np.array([any(user in one for one in lists) for user in users()], np.bool_)

    def content(self, hashes: list[bytes]) -> list[NDArray[np.float32] | None]:
        """Vectors that came with the generations; do not write into them."""
        with self.changed:
            found: list[NDArray[np.float32] | None] = [None] * len(hashes)
            for generation in self._generations:
                if generation.content:
                    found = [generation.content.get(one, found[at]) for at, one in enumerate(hashes)]
            return found

    def refers_to(self, content_hash: bytes) -> bool:
        """Whether any generation refers to some content."""
        with self.changed:
            return any(content_hash in generation.referred for generation in self._generations)

    def items(self) -> dict[str, ItemRecord | None]:
        """The items that the generations change; None for those that they delete."""
        with self.changed:
            changed: dict[str, ItemRecord | None] = {}
            for generation in self._generations:
                changed.update(generation.items)
            return changed

    def item(self, item_id: str) -> tuple[bool, ItemRecord | None]:
        """Whether the generations say something about an item, and what."""
        with self.changed:
            for generation in reversed(self._generations):
                if item_id in generation.items:
                    return True, generation.items[item_id]
            return False, None
