"""An item of the catalogue as bytes."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from nextact_server.storage.seam import ItemRecord

_HEAD = struct.Struct("<III")


def item_to_bytes(item: ItemRecord) -> bytes:
    """As `item_from_bytes` reads it: lengths, then a JSON header, the image, the vector."""
    image = item.image or b""
    vector = b"" if item.vector is None else item.vector.tobytes()
    head: dict[str, Any] = {
        "id": item.item_id,
        "text": item.text,
        "attributes": dict(item.attributes),
        "available": item.available,
        "has": [item.image is not None, item.vector is not None],
        "hash": None if item.content_hash is None else item.content_hash.hex(),
    }
    header = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join([_HEAD.pack(len(header), len(image), len(vector)), header, image, vector])


def item_from_bytes(raw: bytes) -> ItemRecord:
    """Reads what `item_to_bytes` wrote."""
    header_size, image_size, vector_size = _HEAD.unpack_from(raw)
    image_at = _HEAD.size + header_size
    vector_at = image_at + image_size
    head: Mapping[str, Any] = json.loads(raw[_HEAD.size : image_at])
    has_image, has_vector = head["has"]
    return ItemRecord(
        item_id=head["id"],
        text=head["text"],
        image=raw[image_at:vector_at] if has_image else None,
        attributes=head["attributes"],
        available=head["available"],
        content_hash=None if head["hash"] is None else bytes.fromhex(head["hash"]),
        vector=np.frombuffer(raw, np.float32, vector_size // 4, vector_at) if has_vector else None,
    )
