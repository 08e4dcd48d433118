"""A server that answers from memory, and fails as it is told to."""

# ruff: noqa: N802 - the methods are named by the contract

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from nextact.v1 import behavior_pb2 as pb
from nextact.v1 import behavior_pb2_grpc as rpc

MODEL = pb.Model(name="next_action", version="7")


def status(code: grpc.StatusCode, message: str, *details: Message) -> grpc.Status:
    """A failure with details, as google.rpc.Status carries them."""
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=packed))


def overloaded(seconds: float) -> grpc.Status:
    delay = duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))
    return status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", error_details_pb2.RetryInfo(retry_delay=delay)
    )


def bad_request(field: str, description: str) -> grpc.Status:
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    return status(
        grpc.StatusCode.INVALID_ARGUMENT, "bad request", error_details_pb2.BadRequest(field_violations=[violation])
    )


UNAVAILABLE = status(grpc.StatusCode.UNAVAILABLE, "draining")


class FakeServer(rpc.BehaviorServiceServicer):
    """Records requests; `refusals` are answered first, one per unary call.

    `drops` has, per connection of a stream, after how many acknowledgements it ends, and with what (None: OK). With
    `hold` a stream acknowledges only when the window is full or the client has said its last.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, Any]] = []
        self.refusals: deque[grpc.Status] = deque()
        self.drops: deque[tuple[int, grpc.Status | None]] = deque()
        self.window = "messages=4,bytes=67108864"
        self.hold = 0
        self.skip_numbers = 0
        self.stream_numbers: list[list[int]] = []
        self.most_under_way = 0
        self.seen: set[tuple[str, str]] = set()
        self.items: dict[str, pb.Item] = {}
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 32 * 1024 * 1024)]
        )
        rpc.add_BehaviorServiceServicer_to_server(self, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def attempts(self, name: str) -> list[Any]:
        return [request for called, request in self.requests if called == name]

    def _enter(self, name: str, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append((name, request))
        self.metadata.append(dict(context.invocation_metadata()) | {"remaining_s": context.time_remaining()})
        if self.refusals:
            context.abort_with_status(self.refusals.popleft())

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        self._enter("Predict", request, context)
        users = dict.fromkeys(event.user_id for event in request.events)
        return pb.PredictResponse(
            results=[
                pb.EventResult(index=i, message_id=e.message_id, status=pb.EVENT_STATUS_ACCEPTED, applied=True)
                for i, e in enumerate(request.events)
            ],
            predictions=[_prediction(user) for user in users],
            model=MODEL,
            timing=pb.Timing(queue_us=1, compute_us=2, store_us=3),
            durability=pb.DURABILITY_SYNC,
        )

    def StreamEvents(
        self, requests: Iterator[pb.StreamEventsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamEventsResponse]:
        context.send_initial_metadata((("nextact-window", self.window),))
        numbers: list[int] = []
        self.stream_numbers.append(numbers)
        drop_after, drop = self.drops.popleft() if self.drops else (-1, None)
        waiting: deque[pb.StreamEventsRequest] = deque()
        changed = threading.Condition()
        ended = False

        def read() -> None:
            nonlocal ended
            try:
                for request in requests:
                    with changed:
                        numbers.append(request.number)
                        waiting.append(request)
                        self.most_under_way = max(self.most_under_way, len(waiting))
                        changed.notify_all()
            except grpc.RpcError:
                pass  # the client is gone
            finally:
                with changed:
                    ended = True
                    changed.notify_all()

        threading.Thread(target=read, daemon=True).start()
        acknowledged = 0
        while True:
            if acknowledged == drop_after:
                if drop is not None:
                    context.abort_with_status(drop)
                return
            with changed:
                changed.wait_for(lambda: ended or len(waiting) > self.hold)
                if not waiting:
                    return
                request = waiting.popleft()  # before the answer leaves: after it, the client may already send more
            yield self._acknowledge(request)
            acknowledged += 1

    def _acknowledge(self, request: pb.StreamEventsRequest) -> pb.StreamEventsResponse:
        if request.WhichOneof("batch") == "rows":
            ids = [(e.user_id, e.message_id) for e in request.rows.events]
        else:
            table = pa.ipc.open_stream(request.arrow_ipc).read_all()
            ids = list(zip(table["user_id"].to_pylist(), table["message_id"].to_pylist(), strict=True))
        new = [key for key in ids if key not in self.seen]
        self.seen.update(new)
        response = pb.StreamEventsResponse(
            number=request.number + self.skip_numbers,
            accepted=len(new),
            duplicates=len(ids) - len(new),
            model=MODEL,
        )
        for index, (user, _) in enumerate(ids):
            if user == "bad":
                response.failures.add(
                    index=index, status=pb.EVENT_STATUS_INVALID, field="user_id", reason="this user is bad"
                )
                response.accepted -= 1
        if request.predictions == pb.STREAM_PREDICTIONS_EVERY_EVENT:
            if request.WhichOneof("batch") == "rows":
                response.predictions.extend(_prediction(user) for user, _ in ids)
            else:
                response.columns.CopyFrom(_columns([user for user, _ in ids]))
        return response

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:
        self._enter("Embed", request, context)
        return pb.EmbedResponse(
            embeddings=[
                pb.Embedding(error="not an image") if c.image == b"broken" else pb.Embedding(values=[0.6, 0.8])
                for c in request.contents
            ],
            model=pb.Model(name="text_encoder", version="1"),
        )

    def Rank(self, request: pb.RankRequest, context: grpc.ServicerContext) -> pb.RankResponse:
        self._enter("Rank", request, context)
        items = [pb.ItemScore(item_id=c, score=-i) for i, c in enumerate(request.candidates or ["1", "2"])]
        return pb.RankResponse(items=items, model=MODEL, events_seen=9)

    def UpsertItems(self, request: pb.UpsertItemsRequest, context: grpc.ServicerContext) -> pb.UpsertItemsResponse:
        self._enter("UpsertItems", request, context)
        response = pb.UpsertItemsResponse()
        for item in request.items:
            known = item.item_id in self.items
            self.items[item.item_id] = item
            response.results.add(
                item_id=item.item_id, status=pb.ITEM_STATUS_UPDATED if known else pb.ITEM_STATUS_CREATED
            )
        return response

    def GetItem(self, request: pb.GetItemRequest, context: grpc.ServicerContext) -> pb.Item:
        self._enter("GetItem", request, context)
        if request.item_id not in self.items:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no item {request.item_id!r}")
        return self.items[request.item_id]

    def DeleteItem(self, request: pb.DeleteItemRequest, context: grpc.ServicerContext) -> pb.DeleteItemResponse:
        self._enter("DeleteItem", request, context)
        return pb.DeleteItemResponse(existed=self.items.pop(request.item_id, None) is not None)

    def ListItems(self, request: pb.ListItemsRequest, context: grpc.ServicerContext) -> pb.ListItemsResponse:
        self._enter("ListItems", request, context)
        names = sorted(self.items)
        start = int(request.page_token or 0)
        end = start + (request.page_size or 100)
        return pb.ListItemsResponse(
            items=[self.items[name] for name in names[start:end]],
            next_page_token=str(end) if end < len(names) else "",
        )

    def GetUser(self, request: pb.GetUserRequest, context: grpc.ServicerContext) -> pb.User:
        self._enter("GetUser", request, context)
        user = pb.User(user_id=request.user_id, anonymous_id=request.anonymous_id, events_seen=1)
        user.last_event_time.FromMicroseconds(1_700_000_000_000_001)
        entry = user.history.add(status=pb.EVENT_STATUS_LATE, applied=True, content_hash=b"\x01")
        entry.event.CopyFrom(pb.Event(user_id=request.user_id, action="view", item_id="1", message_id="m"))
        entry.event.event_time.CopyFrom(user.last_event_time)
        entry.event.properties.update({"page": "home"})
        entry.effective_time.CopyFrom(user.last_event_time)
        return user

    def DeleteUser(self, request: pb.DeleteUserRequest, context: grpc.ServicerContext) -> pb.DeleteUserResponse:
        self._enter("DeleteUser", request, context)
        return pb.DeleteUserResponse(existed=request.user_id == "ada")


def _prediction(user: str) -> pb.Prediction:
    return pb.Prediction(
        user_id=user,
        embedding=[0.5, -0.25, 1.0],
        actions=[pb.ActionScore(action="view", score=0.75), pb.ActionScore(action="like", score=0.25)],
        items=[pb.ItemScore(item_id="2", score=-0.5), pb.ItemScore(item_id="1", score=-1.5)],
        next=pb.Next(expected_gap_s=60, leave_probability=0.5, horizon_s=3600),
        events_seen=3,
    )


def _columns(users: list[str]) -> pb.PredictionColumns:
    def tensor(values: np.ndarray) -> pb.Tensor:
        return pb.Tensor(dtype="FP32", shape=values.shape, data=values.astype("<f4").tobytes())

    rows = len(users)
    return pb.PredictionColumns(
        user_ids=users,
        anonymous_ids=[""] * rows,
        event_index=range(rows),
        embedding=tensor(np.arange(rows * 3).reshape(rows, 3)),
        actions=tensor(np.full((rows, 2), 0.5)),
        action_names=["view", "like"],
        item_ids=["1", ""] * rows,
        item_scores=tensor(np.array([[-1.0, -np.inf]] * rows)),
    )
