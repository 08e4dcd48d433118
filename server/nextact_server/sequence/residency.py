"""Which users' states are in memory: brought from the store when needed, written back when they leave."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nextact_server.sequence.arena import NOWHERE, StateArena, UserStates
from nextact_server.sequence.engine import SequenceEngine, StepRows, Timeline
from nextact_server.storage.seam import ReplayRows, Store


class Residency:
    """The arena in front of the store. One thread owns it: nothing here locks.

    `model_key` is the "name/version" under which states are kept.
    """

    def __init__(self, arena: StateArena, engine: SequenceEngine, store: Store, model_key: str) -> None:
        self.arena = arena
        self._engine = engine
        self._store = store
        self._model_key = model_key

    def bring(self, users: NDArray[np.int64], durable_group: int) -> NDArray[np.int64]:
        """Arena rows int64[n] of n different users, those not resident brought in first.

        A user's state is the stored one plus the replay of what came after; a user never seen has the initial state.
        """
        rows = self.arena.rows(users)
        absent = rows == NOWHERE
        if absent.any():
            newcomers = users[absent]
            self._make_room(len(newcomers), durable_group)
            rows[absent] = self.arena.admit(newcomers, self._restore(newcomers))
        return rows

    def reserve(self, users: NDArray[np.int64], durable_group: int) -> None:
        """Makes room for users who are about to be erased, so that `restart` finds it; reads nothing of them."""
        self._make_room(int((self.arena.rows(users) == NOWHERE).sum()), durable_group)

    def restart(self, users: NDArray[np.int64], group: int, durable_group: int) -> None:
        """Takes the state from erased users, for whom there is room since `reserve`.

        While the erasure, commit group `group`, is on its way, the store still knows them: so long they stay here, as
        new ones.
        """
        if group <= durable_group:
            self.arena.drop(users)
            return
        rows = self.arena.rows(users)
        absent = rows == NOWHERE
        fresh = self._engine.initial(len(users))
        rows[absent] = self.arena.admit(users[absent], fresh.take(np.flatnonzero(absent)))
        self.arena.scatter(rows, fresh, group)

    def _make_room(self, newcomers: int, durable_group: int) -> None:
        while (evicted := self.arena.room_for(newcomers, durable_group)) is not None:
            kept = self._store.save_states(
                evicted.users,
                evicted.states.events_seen,
                evicted.states.last_time,
                {name: tensor.cpu().numpy() for name, tensor in evicted.states.tensors.items()},
                model=self._model_key,
            )
            # What the store does not take would be lost: such users stay, and others must go in their place.
            self.arena.drop(evicted.users[kept])
            self.arena.keep(evicted.users[~kept])

    def _restore(self, users: NDArray[np.int64]) -> UserStates:
        known = self._store.users(users)
        fresh = self._engine.initial(len(users))
        if not known.has_history.any():
            return fresh
        stored = self._store.load_states(users, model=self._model_key)
        tensors = dict(fresh.tensors)
        if stored.has.any():
            has = torch.from_numpy(stored.has).to(self._engine.model.device)
            for name, tensor in tensors.items():
                kept = torch.from_numpy(np.ascontiguousarray(stored.states[name])).to(tensor.device)
                tensors[name] = torch.where(has.view(-1, *[1] * (kept.dim() - 1)), kept, tensor)
        base = UserStates(
            tensors=tensors,
            events_seen=np.where(stored.has, stored.events_seen, 0),
            last_time=np.where(stored.has, stored.last_time_us, fresh.last_time),
        )
        behind = np.flatnonzero(known.events_seen > base.events_seen)
        return self._replay(users, base, behind.tolist()) if len(behind) else base

    def _replay(self, users: NDArray[np.int64], base: UserStates, behind: Sequence[int]) -> UserStates:
        parts = [self._store.replay(int(users[lane]), int(base.events_seen[lane])) for lane in behind]
        lane = np.repeat(np.array(behind, np.int64), [len(part) for part in parts])
        rows, timeline = self._as_step(lane, parts)
        return self._engine.replay(rows, timeline, base)

    def _as_step(self, lane: NDArray[np.int64], parts: Sequence[ReplayRows]) -> tuple[StepRows, Timeline]:
        hashes = np.concatenate([part.content_hash for part in parts])
        content_rows = np.flatnonzero(hashes.any(axis=1))
        kept, vectors = self._store.content_vectors(hashes[content_rows])
        effective = np.concatenate([part.effective_time_us for part in parts])
        rows = StepRows(
            lane=lane,
            active=np.ones(len(lane), np.bool_),
            event_time=effective,
            action=np.concatenate([part.action_code for part in parts]).astype(np.int64),
            item_key=np.concatenate([part.item_key for part in parts]),
            has_item=np.concatenate([part.has_item for part in parts]),
            content_rows=content_rows[kept],
            content=vectors[kept],
        )
        gap = np.concatenate([part.gap_us for part in parts])
        return rows, Timeline(late=np.zeros(len(lane), np.bool_), effective=effective, gap=gap)
