import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_STATUS_UNSPECIFIED: _ClassVar[EventStatus]
    EVENT_STATUS_ACCEPTED: _ClassVar[EventStatus]
    EVENT_STATUS_DUPLICATE: _ClassVar[EventStatus]
    EVENT_STATUS_LATE: _ClassVar[EventStatus]
    EVENT_STATUS_INVALID: _ClassVar[EventStatus]
    EVENT_STATUS_SUPPRESSED: _ClassVar[EventStatus]
    EVENT_STATUS_OVERLOADED: _ClassVar[EventStatus]

class Output(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_UNSPECIFIED: _ClassVar[Output]
    OUTPUT_EMBEDDING: _ClassVar[Output]
    OUTPUT_ACTIONS: _ClassVar[Output]
    OUTPUT_ITEMS: _ClassVar[Output]
    OUTPUT_NEXT: _ClassVar[Output]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_MEMORY: _ClassVar[Durability]
    DURABILITY_INTERVAL: _ClassVar[Durability]
    DURABILITY_SYNC: _ClassVar[Durability]

class StreamPredictions(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_PREDICTIONS_UNSPECIFIED: _ClassVar[StreamPredictions]
    STREAM_PREDICTIONS_NONE: _ClassVar[StreamPredictions]
    STREAM_PREDICTIONS_LAST_PER_USER: _ClassVar[StreamPredictions]
    STREAM_PREDICTIONS_EVERY_EVENT: _ClassVar[StreamPredictions]

class ItemStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ITEM_STATUS_UNSPECIFIED: _ClassVar[ItemStatus]
    ITEM_STATUS_CREATED: _ClassVar[ItemStatus]
    ITEM_STATUS_UPDATED: _ClassVar[ItemStatus]
    ITEM_STATUS_INVALID: _ClassVar[ItemStatus]
EVENT_STATUS_UNSPECIFIED: EventStatus
EVENT_STATUS_ACCEPTED: EventStatus
EVENT_STATUS_DUPLICATE: EventStatus
EVENT_STATUS_LATE: EventStatus
EVENT_STATUS_INVALID: EventStatus
EVENT_STATUS_SUPPRESSED: EventStatus
EVENT_STATUS_OVERLOADED: EventStatus
OUTPUT_UNSPECIFIED: Output
OUTPUT_EMBEDDING: Output
OUTPUT_ACTIONS: Output
OUTPUT_ITEMS: Output
OUTPUT_NEXT: Output
DURABILITY_UNSPECIFIED: Durability
DURABILITY_MEMORY: Durability
DURABILITY_INTERVAL: Durability
DURABILITY_SYNC: Durability
STREAM_PREDICTIONS_UNSPECIFIED: StreamPredictions
STREAM_PREDICTIONS_NONE: StreamPredictions
STREAM_PREDICTIONS_LAST_PER_USER: StreamPredictions
STREAM_PREDICTIONS_EVERY_EVENT: StreamPredictions
ITEM_STATUS_UNSPECIFIED: ItemStatus
ITEM_STATUS_CREATED: ItemStatus
ITEM_STATUS_UPDATED: ItemStatus
ITEM_STATUS_INVALID: ItemStatus

class Event(_message.Message):
    __slots__ = ("message_id", "user_id", "anonymous_id", "action", "item_id", "event_time", "sent_at", "text", "image", "session_id", "properties")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    message_id: str
    user_id: str
    anonymous_id: str
    action: str
    item_id: str
    event_time: _timestamp_pb2.Timestamp
    sent_at: _timestamp_pb2.Timestamp
    text: str
    image: bytes
    session_id: str
    properties: _struct_pb2.Struct
    def __init__(self, message_id: _Optional[str] = ..., user_id: _Optional[str] = ..., anonymous_id: _Optional[str] = ..., action: _Optional[str] = ..., item_id: _Optional[str] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sent_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., text: _Optional[str] = ..., image: _Optional[bytes] = ..., session_id: _Optional[str] = ..., properties: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class EventResult(_message.Message):
    __slots__ = ("index", "message_id", "status", "reason", "field", "original_status", "applied", "id_derived")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_STATUS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    ID_DERIVED_FIELD_NUMBER: _ClassVar[int]
    index: int
    message_id: str
    status: EventStatus
    reason: str
    field: str
    original_status: EventStatus
    applied: bool
    id_derived: bool
    def __init__(self, index: _Optional[int] = ..., message_id: _Optional[str] = ..., status: _Optional[_Union[EventStatus, str]] = ..., reason: _Optional[str] = ..., field: _Optional[str] = ..., original_status: _Optional[_Union[EventStatus, str]] = ..., applied: _Optional[bool] = ..., id_derived: _Optional[bool] = ...) -> None: ...

class ItemFilter(_message.Message):
    __slots__ = ("exclude_seen", "include_item_ids", "exclude_item_ids", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EXCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    exclude_seen: bool
    include_item_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, exclude_seen: _Optional[bool] = ..., include_item_ids: _Optional[_Iterable[str]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PredictOptions(_message.Message):
    __slots__ = ("top_k", "outputs", "dry_run", "model_version", "filter", "as_of")
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    outputs: _containers.RepeatedScalarFieldContainer[Output]
    dry_run: bool
    model_version: str
    filter: ItemFilter
    as_of: _timestamp_pb2.Timestamp
    def __init__(self, top_k: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[Output, str]]] = ..., dry_run: _Optional[bool] = ..., model_version: _Optional[str] = ..., filter: _Optional[_Union[ItemFilter, _Mapping]] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("events", "history", "options", "request_id")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    history: _containers.RepeatedCompositeFieldContainer[Event]
    options: PredictOptions
    request_id: str
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., options: _Optional[_Union[PredictOptions, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_us", "compute_us", "store_us")
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    STORE_US_FIELD_NUMBER: _ClassVar[int]
    queue_us: int
    compute_us: int
    store_us: int
    def __init__(self, queue_us: _Optional[int] = ..., compute_us: _Optional[int] = ..., store_us: _Optional[int] = ...) -> None: ...

class ActionScore(_message.Message):
    __slots__ = ("action", "score")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    action: str
    score: float
    def __init__(self, action: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class ItemScore(_message.Message):
    __slots__ = ("item_id", "score")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class Next(_message.Message):
    __slots__ = ("expected_gap_s", "leave_probability", "horizon_s")
    EXPECTED_GAP_S_FIELD_NUMBER: _ClassVar[int]
    LEAVE_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    HORIZON_S_FIELD_NUMBER: _ClassVar[int]
    expected_gap_s: float
    leave_probability: float
    horizon_s: float
    def __init__(self, expected_gap_s: _Optional[float] = ..., leave_probability: _Optional[float] = ..., horizon_s: _Optional[float] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("user_id", "embedding", "actions", "items", "next", "events_seen", "event_index", "anonymous_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_SEEN_FIELD_NUMBER: _ClassVar[int]
    EVENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    actions: _containers.RepeatedCompositeFieldContainer[ActionScore]
    items: _containers.RepeatedCompositeFieldContainer[ItemScore]
    next: Next
    events_seen: int
    event_index: int
    anonymous_id: str
    def __init__(self, user_id: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., actions: _Optional[_Iterable[_Union[ActionScore, _Mapping]]] = ..., items: _Optional[_Iterable[_Union[ItemScore, _Mapping]]] = ..., next: _Optional[_Union[Next, _Mapping]] = ..., events_seen: _Optional[int] = ..., event_index: _Optional[int] = ..., anonymous_id: _Optional[str] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("results", "predictions", "model", "timing", "durability")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EventResult]
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    model: Model
    timing: Timing
    durability: Durability
    def __init__(self, results: _Optional[_Iterable[_Union[EventResult, _Mapping]]] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., durability: _Optional[_Union[Durability, str]] = ...) -> None: ...

class EventRows(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class StreamEventsRequest(_message.Message):
    __slots__ = ("number", "rows", "arrow_ipc", "predictions", "options")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ARROW_IPC_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    number: int
    rows: EventRows
    arrow_ipc: bytes
    predictions: StreamPredictions
    options: PredictOptions
    def __init__(self, number: _Optional[int] = ..., rows: _Optional[_Union[EventRows, _Mapping]] = ..., arrow_ipc: _Optional[bytes] = ..., predictions: _Optional[_Union[StreamPredictions, str]] = ..., options: _Optional[_Union[PredictOptions, _Mapping]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PredictionColumns(_message.Message):
    __slots__ = ("user_ids", "embedding", "actions", "action_names", "event_index", "item_ids", "item_scores", "anonymous_ids")
    USER_IDS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    ACTION_NAMES_FIELD_NUMBER: _ClassVar[int]
    EVENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    ITEM_SCORES_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_IDS_FIELD_NUMBER: _ClassVar[int]
    user_ids: _containers.RepeatedScalarFieldContainer[str]
    embedding: Tensor
    actions: Tensor
    action_names: _containers.RepeatedScalarFieldContainer[str]
    event_index: _containers.RepeatedScalarFieldContainer[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    item_scores: Tensor
    anonymous_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_ids: _Optional[_Iterable[str]] = ..., embedding: _Optional[_Union[Tensor, _Mapping]] = ..., actions: _Optional[_Union[Tensor, _Mapping]] = ..., action_names: _Optional[_Iterable[str]] = ..., event_index: _Optional[_Iterable[int]] = ..., item_ids: _Optional[_Iterable[str]] = ..., item_scores: _Optional[_Union[Tensor, _Mapping]] = ..., anonymous_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class StreamEventsResponse(_message.Message):
    __slots__ = ("number", "accepted", "duplicates", "failures", "predictions", "columns", "model")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    number: int
    accepted: int
    duplicates: int
    failures: _containers.RepeatedCompositeFieldContainer[EventResult]
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    columns: PredictionColumns
    model: Model
    def __init__(self, number: _Optional[int] = ..., accepted: _Optional[int] = ..., duplicates: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[EventResult, _Mapping]]] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., columns: _Optional[_Union[PredictionColumns, _Mapping]] = ..., model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Content(_message.Message):
    __slots__ = ("text", "image")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    text: str
    image: bytes
    def __init__(self, text: _Optional[str] = ..., image: _Optional[bytes] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("contents",)
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    contents: _containers.RepeatedCompositeFieldContainer[Content]
    def __init__(self, contents: _Optional[_Iterable[_Union[Content, _Mapping]]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("values", "error")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    error: str
    def __init__(self, values: _Optional[_Iterable[float]] = ..., error: _Optional[str] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("embeddings", "model")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    model: Model
    def __init__(self, embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ..., model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("user_id", "candidates", "top_k", "filter", "as_of", "anonymous_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    candidates: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    filter: ItemFilter
    as_of: _timestamp_pb2.Timestamp
    anonymous_id: str
    def __init__(self, user_id: _Optional[str] = ..., candidates: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., filter: _Optional[_Union[ItemFilter, _Mapping]] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., anonymous_id: _Optional[str] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("items", "model", "events_seen")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EVENTS_SEEN_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ItemScore]
    model: Model
    events_seen: int
    def __init__(self, items: _Optional[_Iterable[_Union[ItemScore, _Mapping]]] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., events_seen: _Optional[int] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("item_id", "text", "image", "attributes", "available")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    text: str
    image: bytes
    attributes: _containers.ScalarMap[str, str]
    available: bool
    def __init__(self, item_id: _Optional[str] = ..., text: _Optional[str] = ..., image: _Optional[bytes] = ..., attributes: _Optional[_Mapping[str, str]] = ..., available: _Optional[bool] = ...) -> None: ...

class UpsertItemsRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class ItemResult(_message.Message):
    __slots__ = ("item_id", "status", "reason")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    status: ItemStatus
    reason: str
    def __init__(self, item_id: _Optional[str] = ..., status: _Optional[_Union[ItemStatus, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class UpsertItemsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ItemResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ItemResult, _Mapping]]] = ...) -> None: ...

class GetItemRequest(_message.Message):
    __slots__ = ("item_id",)
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    def __init__(self, item_id: _Optional[str] = ...) -> None: ...

class DeleteItemRequest(_message.Message):
    __slots__ = ("item_id",)
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    def __init__(self, item_id: _Optional[str] = ...) -> None: ...

class DeleteItemResponse(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: _Optional[bool] = ...) -> None: ...

class ListItemsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListItemsResponse(_message.Message):
    __slots__ = ("items", "next_page_token")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    next_page_token: str
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetUserRequest(_message.Message):
    __slots__ = ("user_id", "page_size", "page_token", "anonymous_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    page_size: int
    page_token: str
    anonymous_id: str
    def __init__(self, user_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., anonymous_id: _Optional[str] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ("event", "status", "applied", "effective_time", "content_hash")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    event: Event
    status: EventStatus
    applied: bool
    effective_time: _timestamp_pb2.Timestamp
    content_hash: bytes
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., status: _Optional[_Union[EventStatus, str]] = ..., applied: _Optional[bool] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., content_hash: _Optional[bytes] = ...) -> None: ...

class User(_message.Message):
    __slots__ = ("user_id", "events_seen", "last_event_time", "suppressed", "history", "next_page_token", "anonymous_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_SEEN_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    SUPPRESSED_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    events_seen: int
    last_event_time: _timestamp_pb2.Timestamp
    suppressed: bool
    history: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    next_page_token: str
    anonymous_id: str
    def __init__(self, user_id: _Optional[str] = ..., events_seen: _Optional[int] = ..., last_event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., suppressed: _Optional[bool] = ..., history: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., anonymous_id: _Optional[str] = ...) -> None: ...

class DeleteUserRequest(_message.Message):
    __slots__ = ("user_id", "suppress", "anonymous_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SUPPRESS_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    suppress: bool
    anonymous_id: str
    def __init__(self, user_id: _Optional[str] = ..., suppress: _Optional[bool] = ..., anonymous_id: _Optional[str] = ...) -> None: ...

class DeleteUserResponse(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: _Optional[bool] = ...) -> None: ...
