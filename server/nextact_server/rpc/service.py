"""BehaviorService's unary methods: bytes in, domain call, bytes out. The transports call these, whichever they are."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from nextact.v1 import behavior_pb2 as pb
from nextact_server.catalogue import Catalogue, NewItem
from nextact_server.events.call import NO_FILTER
from nextact_server.events.validation import EventLimits
from nextact_server.features.content import Content, ContentEncoder
from nextact_server.features.errors import ContentError
from nextact_server.inference.together import all_done
from nextact_server.people import People, Person, key_of
from nextact_server.pipeline import Pipeline, Submission
from nextact_server.rpc.decode import PredictReader, as_of, event_columns, filter_of, parse
from nextact_server.rpc.encode import Encoder
from nextact_server.rpc.errors import CallError, invalid
from nextact_server.rpc.history import entries, timestamp
from nextact_server.rpc.limits import Limits
from nextact_server.rpc.pages import cursor_of, name_of, page_size, token_of
from nextact_server.sequence.stage import RankWork
from nextact_server.storage.seam import ItemRecord

SERVICE = "nextact.v1.BehaviorService"

UnaryMethod = Callable[[bytes], Awaitable[bytes]]


class BehaviorService:
    """The contract's unary methods by name, each from request bytes to response bytes. Raises CallError and what the
    rooms raise; `rpc.errors.as_call_error` makes a status of it."""

    def __init__(
        self,
        pipeline: Pipeline,
        catalogue: Catalogue,
        people: People,
        content: ContentEncoder,
        encoder: Encoder,
        limits: Limits,
        event_limits: EventLimits,
    ) -> None:
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._people = people
        self._content = content
        self._encoder = encoder
        self._limits = limits
        self._reader = PredictReader(limits)
        self._event_limits = event_limits
        self.methods: dict[str, UnaryMethod] = {
            "Predict": self.predict,
            "Embed": self.embed,
            "Rank": self.rank,
            "UpsertItems": self.upsert_items,
            "GetItem": self.get_item,
            "DeleteItem": self.delete_item,
            "ListItems": self.list_items,
            "GetUser": self.get_user,
            "DeleteUser": self.delete_user,
        }

    async def predict(self, payload: bytes) -> bytes:
        """Applies a few events and predicts."""
        request = parse(pb.PredictRequest, payload)
        call = self._reader.call(request, 0)
        events = [*request.history, *request.events]
        submission = self._pipeline.submit(event_columns(events), (call,))
        answer = await self._settled(submission)
        responses = self._encoder.predict_responses(answer, submission.queue_us, submission.store_us)
        return responses[0]

    async def embed(self, payload: bytes) -> bytes:
        """Texts and images to vectors."""
        request = parse(pb.EmbedRequest, payload)
        if len(request.contents) > self._limits.embed_contents:
            limit = self._limits.embed_contents
            raise invalid("contents", f"{len(request.contents)} contents; at most {limit} (max_embed_contents)")
        contents = [Content(text=content.text or None, image=content.image or None) for content in request.contents]
        futures = self._content.encode_many(contents)
        await all_done(futures)
        response = pb.EmbedResponse(model=self._encoder.content_model)
        for future in futures:
            error = future.exception()
            if isinstance(error, ContentError):
                response.embeddings.add(error=f"{error.field}: {error.reason}")
            elif error is not None:
                raise error
            else:
                response.embeddings.add(values=future.result().tolist())
        return response.SerializeToString()

    async def rank(self, payload: bytes) -> bytes:
        """Scores items for a user without recording anything."""
        request = parse(pb.RankRequest, payload)
        self._check_identity(request.user_id, request.anonymous_id)
        limits = self._limits
        if len(request.candidates) > limits.candidates:
            raise invalid("candidates", f"{len(request.candidates)}; at most {limits.candidates} (max_candidates)")
        most = len(request.candidates) or limits.top_k
        if not 0 <= request.top_k <= max(most, limits.top_k):
            raise invalid("top_k", f"{request.top_k} is not in 0..{max(most, limits.top_k)} (max_top_k)")
        if request.HasField("as_of"):
            as_of(request.as_of, "as_of")  # no head that ranks depends on it yet
        work = RankWork(
            user_key=key_of(request.user_id, request.anonymous_id),
            candidates=tuple(request.candidates),
            top_k=request.top_k or (0 if request.candidates else limits.default_top_k),
            filter=filter_of(request.filter, "filter", limits) if request.HasField("filter") else NO_FILTER,
        )
        ranked = await self._settled(self._pipeline.rank(work))
        return self._encoder.rank_response(ranked).SerializeToString()

    async def upsert_items(self, payload: bytes) -> bytes:
        """Registers or replaces items."""
        request = parse(pb.UpsertItemsRequest, payload)
        if len(request.items) > self._limits.upsert_items:
            limit = self._limits.upsert_items
            raise invalid("items", f"{len(request.items)} items; at most {limit} (max_upsert_items)")
        items = [
            NewItem(item.item_id, item.text, item.image, dict(item.attributes), _available(item))
            for item in request.items
        ]
        response = pb.UpsertItemsResponse()
        for outcome in await self._catalogue.upsert(items):
            if outcome.reason:
                status = pb.ITEM_STATUS_INVALID
            else:
                status = pb.ITEM_STATUS_CREATED if outcome.created else pb.ITEM_STATUS_UPDATED
            response.results.add(item_id=outcome.item_id, status=status, reason=outcome.reason)
        return response.SerializeToString()

    async def get_item(self, payload: bytes) -> bytes:
        """One item, with its image."""
        item_id = self._item_id(parse(pb.GetItemRequest, payload).item_id)
        record = self._catalogue.get(item_id)
        if record is None:
            raise CallError(grpc.StatusCode.NOT_FOUND, f"no item {item_id!r} in the catalogue")
        return _item(record, with_image=True).SerializeToString()

    async def delete_item(self, payload: bytes) -> bytes:
        """Removes one item."""
        item_id = self._item_id(parse(pb.DeleteItemRequest, payload).item_id)
        return pb.DeleteItemResponse(existed=await self._catalogue.delete(item_id)).SerializeToString()

    async def list_items(self, payload: bytes) -> bytes:
        """A page of the catalogue."""
        request = parse(pb.ListItemsRequest, payload)
        size = page_size(request.page_size, self._limits.page_size)
        after = name_of(request.page_token)
        return self._shrunk(lambda entries: self._items_page(after, entries), size)

    def _items_page(self, after: str, size: int) -> bytes:
        records = self._catalogue.page(after, size + 1)  # one more says if this is the last page
        response = pb.ListItemsResponse(items=[_item(record, with_image=False) for record in records[:size]])
        if len(records) > size:
            response.next_page_token = token_of(records[size - 1].item_id)
        return response.SerializeToString()

    def _shrunk(self, page: Callable[[int], bytes], size: int) -> bytes:
        """The page of at most `size` entries that fits into a message: long texts make short pages."""
        response = page(size)
        while len(response) > self._limits.message_bytes and size > 1:
            size //= 2
            response = page(size)
        return response

    async def get_user(self, payload: bytes) -> bytes:
        """A page of what is held about a user."""
        request = parse(pb.GetUserRequest, payload)
        self._check_identity(request.user_id, request.anonymous_id)
        size = page_size(request.page_size, self._limits.page_size)
        before = cursor_of(request.page_token)

        def page(entries: int) -> bytes:
            person = self._people.get(request.user_id, request.anonymous_id, before, entries)
            if person is None:
                raise CallError(grpc.StatusCode.NOT_FOUND, f"nothing is held about {_named(request)}")
            return _user(request, person).SerializeToString()

        return self._shrunk(page, size)

    async def delete_user(self, payload: bytes) -> bytes:
        """Erases a user."""
        request = parse(pb.DeleteUserRequest, payload)
        self._check_identity(request.user_id, request.anonymous_id)
        existed = await self._people.delete(request.user_id, request.anonymous_id, suppress=request.suppress)
        return pb.DeleteUserResponse(existed=existed).SerializeToString()

    async def _settled(self, submission: Submission) -> Any:
        try:
            return await asyncio.wrap_future(submission.future)
        except asyncio.CancelledError:
            self._pipeline.withdraw(submission)
            raise

    def _check_identity(self, user_id: str, anonymous_id: str) -> None:
        if bool(user_id) == bool(anonymous_id):
            what = "both are given" if user_id else "both are empty"
            raise invalid("user_id", f"exactly one of user_id and anonymous_id is expected; {what}")
        for name, value in (("user_id", user_id), ("anonymous_id", anonymous_id)):
            self._check_id(name, value)

    def _item_id(self, item_id: str) -> str:
        if not item_id:
            raise invalid("item_id", "is empty; it is required")
        self._check_id("item_id", item_id)
        return item_id

    def _check_id(self, name: str, value: str) -> None:
        size = len(value.encode())
        if size > self._event_limits.id_bytes:
            raise invalid(name, f"has {size} bytes; at most {self._event_limits.id_bytes} are allowed (max_id_bytes)")


def _available(item: pb.Item) -> bool:
    return bool(item.available) if item.HasField("available") else True


def _item(record: ItemRecord, *, with_image: bool) -> pb.Item:
    return pb.Item(
        item_id=record.item_id,
        text=record.text,
        image=record.image or b"" if with_image else b"",
        attributes=dict(record.attributes),
        available=record.available,
    )


def _named(request: pb.GetUserRequest) -> str:
    return f"user {request.user_id!r}" if request.user_id else f"visitor {request.anonymous_id!r}"


def _user(request: pb.GetUserRequest, person: Person) -> pb.User:
    user = pb.User(
        user_id=request.user_id,
        anonymous_id=request.anonymous_id,
        events_seen=person.events_seen,
        suppressed=person.suppressed,
        history=entries(person.page),
    )
    if len(person.page):
        user.last_event_time.CopyFrom(timestamp(person.last_time_us))
    if person.page.next_before is not None:
        user.next_page_token = token_of(str(person.page.next_before))
    return user
