"""Advances many users by many events in one step, with the exact result of one event at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nextact_server.sequence.arena import NO_TIME, UserStates
from nextact_server.sequence.index import ItemIndex, item_rows
from nextact_server.sequence.model import RECENT, SequenceModel
from nextact_server.sequence.recent import RecentItems, remember

MICROSECONDS = 1_000_000
TimeFeatures = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""(effective_time_us int64[n], gap_us int64[n] with -1 for none) -> float32[n, time_dim]."""


@dataclass(frozen=True, slots=True)
class StepRows:
    """Events in order of arrival, as the model needs them: n rows.

    `lane` int64[n] is the user's position among the states that the step is given; `active` bool[n] says which rows
    are to be applied, the others only ask for their user's place in line; `action` int64[n] the model's
    action code; `event_time` int64[n] in microseconds; `item_key` uint64[n, 2]; `has_item` bool[n]; `content`
    float32[m, content_dim] for the rows `content_rows` int64[m] that carry their own text or image.
    """

    lane: NDArray[np.int64]
    active: NDArray[np.bool_]
    event_time: NDArray[np.int64]
    action: NDArray[np.int64]
    item_key: NDArray[np.uint64]
    has_item: NDArray[np.bool_]
    content_rows: NDArray[np.int64]
    content: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The times of n events as the model is given them, in microseconds.

    `late` bool[n]: older than the user's newest by more than the allowed lateness; `effective` int64[n]: never before
    the user's newest; `gap` int64[n]: since the user's previous event, -1 for the first.
    """

    late: NDArray[np.bool_]
    effective: NDArray[np.int64]
    gap: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step made of n events and L users.

    `hidden` float32[a, output_dim] are the outputs of the `a` applied rows ordered by lane, then arrival; `ends`
    int64[L + 1] says where each lane's outputs begin in it; `before` is the hidden vector of each lane before the step,
    float32[L, output_dim]; `rank` int64[n] counts the lane's applied rows up to and with each row; `recent` are the
    lanes' last items, None where the model's state names none.
    """

    timeline: Timeline
    applied: NDArray[np.bool_]
    states: UserStates
    hidden: torch.Tensor
    ends: NDArray[np.int64]
    before: torch.Tensor
    rank: NDArray[np.int64]
    recent: RecentItems | None

    def recent_at(self, lanes: NDArray[np.int64], counts: NDArray[np.int64]) -> torch.Tensor | None:
        """Last items float32[m, reach] of lanes after their first `counts` applied events of the step."""
        if self.recent is None:
            return None
        device = self.recent.items.device
        return self.recent.at(torch.from_numpy(lanes).to(device), torch.from_numpy(counts).to(device))

    def hidden_at(self, lanes: NDArray[np.int64], counts: NDArray[np.int64]) -> torch.Tensor:
        """Hidden vectors float32[m, output_dim] of lanes after their first `counts` applied events of the step."""
        if not len(self.hidden):
            return self.before[torch.from_numpy(lanes)]
        after = self.hidden[torch.from_numpy(np.maximum(self.ends[lanes] + counts - 1, 0))]
        if (counts > 0).all():
            return after
        begun = torch.from_numpy(counts > 0).to(after.device)[:, None]
        return torch.where(begun, after, self.before[torch.from_numpy(lanes)])


class SequenceEngine:
    """A sequence model with its item index; pure in everything but the index, which only `upsert` changes."""

    def __init__(
        self,
        model: SequenceModel,
        index: ItemIndex,
        time_features: TimeFeatures,
        allowed_lateness_s: float,
        apply_late: bool,
    ) -> None:
        self.model = model
        self.index = index
        self._time_features = time_features
        self._lateness_us = int(allowed_lateness_s * MICROSECONDS)
        self._apply_late = apply_late

    def initial(self, users: int) -> UserStates:
        """States of `users` users without events."""
        return UserStates(
            tensors=self.model.initial_state(users),
            events_seen=np.zeros(users, np.int64),
            last_time=np.full(users, NO_TIME, np.int64),
        )

    def step(self, rows: StepRows, states: UserStates) -> Stepped:
        """Applies the rows to the states, lane by lane in order of arrival; changes neither."""
        timeline = self._timeline(rows, states.last_time)
        applied = rows.active if self._apply_late else rows.active & ~timeline.late
        return self._apply(rows, timeline, applied, states)

    def replay(self, rows: StepRows, timeline: Timeline, states: UserStates) -> UserStates:
        """The states after rows whose times are those recorded when they were first applied."""
        return self._apply(rows, timeline, rows.active, states).states

    def _apply(self, rows: StepRows, timeline: Timeline, applied: NDArray[np.bool_], states: UserStates) -> Stepped:
        lanes = len(states.events_seen)
        lane = rows.lane[applied]
        order, counts, rank = _by_lane(rows.lane, applied, lanes)
        ends = np.zeros(lanes + 1, np.int64)
        np.cumsum(counts, out=ends[1:])
        items = item_rows(self.index, rows.item_key, rows.has_item)
        recent = None
        with torch.inference_mode():
            before = self.model.hidden(states.tensors)
            if RECENT in states.tensors:
                recent = self._remember(states.tensors[RECENT], items[order], ends)
            if len(order):
                x = self._inputs(rows, items, timeline)[torch.from_numpy(order)]
                hidden, tensors = self.model.scan(x, torch.from_numpy(counts), states.tensors)
                if recent is not None:
                    everyone = torch.arange(lanes, device=x.device)
                    tensors[RECENT] = recent.at(everyone, torch.from_numpy(counts).to(x.device))
            else:
                hidden, tensors = before[:0], dict(states.tensors)
        last_time = states.last_time.copy()
        np.maximum.at(last_time, lane, timeline.effective[applied])
        return Stepped(
            timeline=timeline,
            applied=applied,
            states=UserStates(tensors=tensors, events_seen=states.events_seen + counts, last_time=last_time),
            hidden=hidden,
            ends=ends,
            before=before,
            rank=rank,
            recent=recent,
        )

    def _remember(self, before: torch.Tensor, items: NDArray[np.int64], ends: NDArray[np.int64]) -> RecentItems:
        vocab = torch.from_numpy(self.index.vocabulary(items)).to(before.device)
        return remember(before, vocab, torch.from_numpy(ends).to(before.device))

    def _inputs(self, rows: StepRows, item_rows: NDArray[np.int64], timeline: Timeline) -> torch.Tensor:
        items = self.index.inputs(item_rows)
        device = self.model.device
        time = torch.from_numpy(self._time_features(timeline.effective, timeline.gap)).to(device, non_blocking=True)
        action = torch.from_numpy(rows.action).to(device, non_blocking=True)
        if not len(rows.content_rows):
            return self.model.event_inputs(items, action, time)
        content = torch.zeros(len(rows.lane), self.model.config.content_dim, device=device)
        has_content = torch.zeros(len(rows.lane), dtype=torch.bool, device=device)
        at = torch.from_numpy(rows.content_rows)
        content[at] = torch.from_numpy(rows.content).to(device)
        has_content[at] = True
        return self.model.event_inputs(items, action, time, content, has_content)

    def _timeline(self, rows: StepRows, last_time: NDArray[np.int64]) -> Timeline:
        times = rows.event_time if rows.active.all() else np.where(rows.active, rows.event_time, NO_TIME)
        newest = _newest_before(rows.lane, times, last_time)
        known = newest != NO_TIME
        late = known & (times + self._lateness_us < newest)
        effective = np.maximum(times, newest)  # NO_TIME is the least int64
        gap = np.where(known, effective - np.where(known, newest, 0), -1)
        return Timeline(late=late, effective=effective, gap=gap)


def _by_lane(
    lane: NDArray[np.int64], applied: NDArray[np.bool_], lanes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The applied rows ordered by lane, how many each lane has, and each row's `rank` (see Stepped)."""
    at = np.flatnonzero(applied)
    counts = np.bincount(lane[at], minlength=lanes).astype(np.int64)
    order = at[np.argsort(lane[at], kind="stable")]
    if applied.all() and counts.max(initial=0) <= 1:
        return order, counts, np.ones(len(lane), np.int64)
    everything = np.argsort(lane, kind="stable")
    running = np.cumsum(applied[everything])
    starts = np.zeros(lanes, np.int64)
    np.cumsum(counts[:-1], out=starts[1:])
    rank = np.empty(len(lane), np.int64)
    rank[everything] = running - starts[lane[everything]]
    return order, counts, rank


def _newest_before(
    lane: NDArray[np.int64], event_time: NDArray[np.int64], last_time: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The newest time of the lane's events before each row, those before the step included: int64[n]."""
    seed = last_time[lane]
    order = np.argsort(lane, kind="stable")
    lanes = lane[order]
    first = np.ones(len(lane), np.bool_)
    first[1:] = lanes[1:] != lanes[:-1]
    if first.all():
        return seed
    # A running maximum that starts anew in every lane: over ranks, lifted by the lane so that no lane sees another.
    shifted = np.where(first, seed[order], np.roll(event_time[order], 1))
    seeded = np.maximum(shifted, seed[order])
    values, ranks = np.unique(seeded, return_inverse=True)
    lifted = ranks + np.cumsum(first) * len(values)
    newest = np.empty(len(lane), np.int64)
    newest[order] = values[np.maximum.accumulate(lifted) - np.cumsum(first) * len(values)]
    return newest
