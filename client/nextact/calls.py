"""The unary calls as values: which RPC, with what request, and how its answer is read.

Both clients send these; neither builds a request nor reads a response itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from nextact import messages, responses
from nextact.channel import MAX_MESSAGE_BYTES
from nextact.messages import PredictOptions
from nextact.types import (
    ContentLike,
    EventLike,
    Item,
    ItemFilter,
    ItemResult,
    PredictAnswer,
    RankAnswer,
    Time,
    User,
)
from nextact.v1 import behavior_pb2 as pb

MAX_EMBED_CONTENTS = 256
MAX_UPSERT_ITEMS = 1000
_REQUEST_BYTES = MAX_MESSAGE_BYTES - 64 * 1024  # the framing of the values takes a few bytes each

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One unary call: `method` as the client names it, the request, and what reads the response."""

    method: str
    request: Message
    parse: Callable[[Any], R]


def predict(
    events: Iterable[EventLike], history: Iterable[EventLike], request_id: str, options: PredictOptions
) -> Call[PredictAnswer]:
    """Predict, with message ids and event times filled in, so that it may be repeated."""
    request = pb.PredictRequest(
        events=[messages.event_message(event, messages.new_message_id()) for event in events],
        history=[messages.event_message(event, messages.new_message_id()) for event in history],
        options=messages.options_message(options),
        request_id=request_id,
    )
    return Call("predict", request, responses.predict_answer)


def embed(contents: Iterable[ContentLike]) -> Iterator[Call[pb.EmbedResponse]]:
    """Embed, in as many requests as the limits of one demand; `responses.embed_answer` joins the answers."""
    built = map(messages.content_message, contents)
    for group in messages.chunks(built, pb.Content.ByteSize, MAX_EMBED_CONTENTS, _REQUEST_BYTES):
        yield Call("embed", pb.EmbedRequest(contents=group), lambda response: response)


def rank(
    user_id: str,
    anonymous_id: str,
    candidates: Iterable[str],
    top_k: int,
    item_filter: ItemFilter | None,
    as_of: Time | None,
) -> Call[RankAnswer]:
    """Rank."""
    request = pb.RankRequest(user_id=user_id, anonymous_id=anonymous_id, candidates=candidates, top_k=top_k)
    if item_filter is not None:
        request.filter.CopyFrom(messages.filter_message(item_filter))
    if as_of is not None:
        request.as_of.CopyFrom(messages.timestamp(as_of, "as_of"))
    return Call("rank", request, responses.rank_answer)


def upsert_items(items: Iterable[Item]) -> Iterator[Call[list[ItemResult]]]:
    """UpsertItems, in as many requests as the limits of one demand."""
    built = map(messages.item_message, items)
    for group in messages.chunks(built, pb.Item.ByteSize, MAX_UPSERT_ITEMS, _REQUEST_BYTES):
        yield Call("upsert_items", pb.UpsertItemsRequest(items=group), responses.item_results)


def get_item(item_id: str) -> Call[Item]:
    """GetItem."""
    return Call("get_item", pb.GetItemRequest(item_id=item_id), responses.item)


def delete_item(item_id: str) -> Call[bool]:
    """DeleteItem; True if there was one."""
    return Call("delete_item", pb.DeleteItemRequest(item_id=item_id), lambda response: response.existed)


def list_items(page_size: int, page_token: str) -> Call[tuple[list[Item], str]]:
    """ListItems: one page, and the token of the next ('' after the last)."""
    request = pb.ListItemsRequest(page_size=page_size, page_token=page_token)
    return Call("list_items", request, lambda page: ([responses.item(m) for m in page.items], page.next_page_token))


def get_user(user_id: str, anonymous_id: str, page_size: int, page_token: str) -> Call[User]:
    """GetUser."""
    request = pb.GetUserRequest(user_id=user_id, anonymous_id=anonymous_id, page_size=page_size, page_token=page_token)
    return Call("get_user", request, responses.user)


def delete_user(user_id: str, anonymous_id: str, suppress: bool) -> Call[bool]:
    """DeleteUser; True if anything was held."""
    request = pb.DeleteUserRequest(user_id=user_id, anonymous_id=anonymous_id, suppress=suppress)
    return Call("delete_user", request, lambda response: response.existed)
