"""Backend `nextact`: the door from the model repository to the users' next-action model."""

from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import model_config_pb2

from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.own_models.next_action import ACTION, EVENT_TIME, ITEM_ID, MESSAGE_ID, NextActionScheduler, Users
from nextact_server.own_models.next_action_outputs import (
    ACTIONS,
    EMBEDDING,
    EVENTS_SEEN,
    EXPECTED_GAP,
    ITEM_IDS,
    ITEM_SCORES,
    LEAVE_PROBABILITY,
    REASON,
    STATUS,
    NextActionOutputs,
)
from nextact_server.own_models.versions import OwnVersion, add_tensor, check_own
from nextact_server.repository.backend import ModelContext
from nextact_server.repository.config import ModelConfig

__all__ = ["NextActionBackend", "ServedNextAction"]


@dataclass(frozen=True, slots=True)
class ServedNextAction:
    """The model that serves users: its name and version in the repository, its actions and the width of embeddings.

    `horizon_s` is that of its probability of leaving; None where it does not foretell when the next event comes.
    """

    name: str
    version: str
    actions: tuple[str, ...]
    embedding_dim: int
    horizon_s: float | None = None


class NextActionBackend:
    """Serves the one model that holds users' states; no other of its kind can be loaded beside it."""

    def __init__(self, model: ServedNextAction, users: Users, outputs: NextActionOutputs, *, max_rows: int) -> None:
        self._model = model
        self._users = users
        self._outputs = outputs
        self._max_rows = max_rows

    def complete(self, config: ModelConfig, version_dir: Path) -> ModelConfig:  # noqa: ARG002
        """Add tensors, and that it is a sequence model, where the config leaves it out."""
        check_own(config, self._model.name, "sequence_model")
        if config.response_cache.enable:
            raise invalid_argument(
                f"model '{config.name}': response_cache.enable must be false, for answers depend on users' states"
            )
        completed = model_config_pb2.ModelConfig()
        completed.CopyFrom(config)
        if not completed.input:
            add_tensor(completed.input, ACTION, "TYPE_STRING", [1])
            add_tensor(completed.input, ITEM_ID, "TYPE_STRING", [1], optional=True)
            add_tensor(completed.input, EVENT_TIME, "TYPE_INT64", [1], optional=True)
            add_tensor(completed.input, MESSAGE_ID, "TYPE_STRING", [1], optional=True)
        if not completed.output:
            for name, data_type, width in (
                (STATUS, "TYPE_STRING", 1),
                (REASON, "TYPE_STRING", 1),
                (EVENTS_SEEN, "TYPE_INT64", 1),
                (EMBEDDING, "TYPE_FP32", self._model.embedding_dim),
                (ACTIONS, "TYPE_FP32", len(self._model.actions)),
                (ITEM_IDS, "TYPE_STRING", -1),
                (ITEM_SCORES, "TYPE_FP32", -1),
            ):
                if width:  # a model of data without actions foretells none
                    add_tensor(completed.output, name, data_type, [width])
            if self._model.horizon_s is not None:
                add_tensor(completed.output, EXPECTED_GAP, "TYPE_FP32", [1])
                add_tensor(completed.output, LEAVE_PROBABILITY, "TYPE_FP32", [1])
        if completed.WhichOneof("scheduling_choice") is None:
            completed.sequence_batching.oldest.max_candidate_sequences = max(1, completed.max_batch_size)
        completed.parameters["actions"].string_value = ",".join(self._model.actions)
        if self._model.horizon_s is not None:
            completed.parameters["horizon_s"].string_value = f"{self._model.horizon_s:.15g}"
        return completed

    def load(self, context: ModelContext) -> OwnVersion:
        """Stand before the pipeline. Raises InferError for another version than the one that serves users."""
        if str(context.spec.version) != self._model.version:
            raise invalid_argument(
                f"version {context.spec.version} of '{self._model.name}' cannot be served: version "
                f"{self._model.version} holds the users' states since the server started"
            )
        return OwnVersion(
            NextActionScheduler(
                self._users,
                self._outputs,
                context.statistics,
                name=self._model.name,
                max_rows=self._max_rows,
            )
        )
