"""Checkpoints of user states in the database: a row for each user and model version."""

import json
import struct
import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.rocks_database import META, STATES, Batch, Database
from nextact_server.storage.rocks_generation import NEVER
from nextact_server.storage.rocks_overlay import Overlay
from nextact_server.storage.seam import NO_TIME, StateColumns, StoreError
from nextact_server.storage.states import no_states

_MODEL = b"model/"
_HEAD = np.dtype([("events_seen", "<i8"), ("last_time_us", "<i8"), ("number", "<i8")])
"""`number` is that of the store's next event when the state was saved: an erasure with a higher one made it void."""
_NUMBER = struct.Struct(">I")
_ROWS_PER_BATCH = 1000


class Model:
    """The states that one model version declared: their names, in order, and the shape of each user's."""

    def __init__(self, number: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.suffix = _NUMBER.pack(number)
        self.shapes = dict(shapes)
        self.sizes = [int(np.prod(shape)) for shape in self.shapes.values()]


class States:
    """Saves and loads states. Thread-safe; all of it inside `Database.reading`."""

    def __init__(self, database: Database, overlay: Overlay) -> None:
        self._database = database
        self._overlay = overlay
        self._lock = threading.Lock()
        self._models: dict[str, Model] = {}

    def save(
        self,
        users: list[bytes],
        events_seen: NDArray[np.int64],
        last_time_us: NDArray[np.int64],
        states: Mapping[str, NDArray[np.float32]],
        model: str,
    ) -> None:
        """Keeps the states of n users; they are on disk with the next group that is.

        Raises:
            StoreError: names or shapes are not those that the model's states had before; the database failed.
        """
        known = self._model(model, states)
        if not users:
            return
        rows = np.zeros(len(users), _HEAD)
        rows["events_seen"], rows["last_time_us"] = events_seen, last_time_us
        rows["number"] = self._overlay.next_number
        heads = rows.tobytes()
        body = np.concatenate([states[name].reshape(len(users), -1) for name in known.shapes], axis=1, dtype=np.float32)
        values, width = body.tobytes(), 4 * sum(known.sizes)
        for start in range(0, len(users), _ROWS_PER_BATCH):
            batch = self._database.batch()
            for at in range(start, min(start + _ROWS_PER_BATCH, len(users))):
                head = heads[at * _HEAD.itemsize : (at + 1) * _HEAD.itemsize]
                batch.put(STATES, users[at] + known.suffix, head + values[at * width : (at + 1) * width])
            self._database.write(batch)

    def load(self, users: list[bytes], model: str) -> StateColumns:
        """The states of n users."""
        known = self._find(model)
        if known is None:
            return no_states(len(users))
        erased_at = np.full(len(users), NEVER)
        for layer in self._overlay.columns(users):
            erased_at = np.maximum(erased_at, layer.erased_at)
        found = self._database.get_all(STATES, [user + known.suffix for user in users])
        width = sum(known.sizes)
        empty = bytes(_HEAD.itemsize + 4 * width)
        table = np.frombuffer(b"".join([row or empty for row in found]), [("head", _HEAD), ("body", "<f4", (width,))])
        has = np.array([row is not None for row in found], np.bool_) & (table["head"]["number"] > erased_at)
        columns = {}
        at = 0
        for (name, shape), size in zip(known.shapes.items(), known.sizes, strict=True):
            values = table["body"][:, at : at + size].copy()
            values[~has] = 0
            columns[name] = values.reshape(len(users), *shape)
            at += size
        return StateColumns(
            has,
            np.where(has, table["head"]["events_seen"], 0),
            np.where(has, table["head"]["last_time_us"], NO_TIME),
            columns,
        )

    def forget(self, batch: Batch, user: bytes, below: int) -> None:
        """Lets a batch remove a user's states that were saved before an erasure."""
        for key, row in self._database.scan(STATES, user):
            if np.frombuffer(row, _HEAD, 1)["number"][0] <= below:
                batch.delete(STATES, key)

    def forget_models(self) -> None:
        """Reads the models anew when they are asked for; the database was reopened."""
        with self._lock:
            self._models.clear()

    def _find(self, model: str) -> Model | None:
        with self._lock:
            if model not in self._models:
                raw = self._database.get(META, _MODEL + model.encode())
                if raw is None:
                    return None
                told = json.loads(raw)
                self._models[model] = Model(told["number"], {name: tuple(shape) for name, shape in told["shapes"]})
            return self._models[model]

    def _model(self, model: str, states: Mapping[str, NDArray[np.float32]]) -> Model:
        shapes = {name: values.shape[1:] for name, values in sorted(states.items())}
        known = self._find(model)
        if known is None:
            with self._lock:
                number = sum(1 for _ in self._database.scan(META, _MODEL))
                told = {"number": number, "shapes": [[name, list(shape)] for name, shape in shapes.items()]}
                batch = self._database.batch()
                batch.put(META, _MODEL + model.encode(), json.dumps(told).encode())
                self._database.write(batch)
                known = self._models[model] = Model(number, shapes)
        if dict(known.shapes) != shapes:
            raise StoreError(f"states of shapes {shapes} were given; those of {model!r} are of shapes {known.shapes}")
        return known
