"""Items that are described by attributes alone: a set of them as a vector of the content space.

Signed feature hashing (Weinberger et al. 2009): each attribute adds 1 or -1 at places of the vector that its name's
sha256 says, at eight places instead of one, so that two attributes that share a place still differ in seven. Nothing is
drawn and nothing is learned here, so the same attributes give the same vector in every catalogue and for ever.

Attributes are not weighted by how rare they are: that would make an item's vector depend on all other items, so that
it changes with the catalogue; and as a guess of which items follow each other it helped on no data set by more than it
harmed on another. Training learns a projection of these vectors and with it what each attribute is worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from nextact_server.features.vectors import Vector, unit_rows

HASHES: Final = 8
"""Places of the vector that an attribute adds to."""


def attribute_vectors(attributes: pl.DataFrame, items: Sequence[str], dim: int) -> Vector:
    """Return float32[len(items), dim], each row at length 1, or of zeros where the item has no attribute.

    `attributes` has the columns item_id, attribute and count; an attribute that is listed n times for an item weighs
    1 + ln n. Items that are not in `items` are left out.
    """
    known = attributes.with_columns(row=pl.col("item_id").cast(pl.Enum(items), strict=False).to_physical())
    known = known.drop_nulls("row").sort("row", "attribute")
    names = known["attribute"].unique().sort()
    places, signs = _places(names.to_list(), dim)
    row = known["row"].to_numpy()
    column = known["attribute"].cast(pl.Enum(names)).to_physical().to_numpy()
    weight = 1.0 + np.log(known["count"].to_numpy())
    out = np.zeros((len(items), dim))
    for place, sign in zip(places, signs, strict=True):
        np.add.at(out, (row, place[column]), weight * sign[column])
    return unit_rows(out)


def _places(names: Sequence[str], dim: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return where in the vector each hash puts each attribute and with which sign, [HASHES, len(names)] both."""
    digests = [hashlib.sha256(f"{turn}\n{name}".encode()).digest() for turn in range(HASHES) for name in names]
    words = np.frombuffer(b"".join(digests), dtype="<u8").reshape(HASHES, len(names), 4)
    return (words[:, :, 0] % dim).astype(np.int64), np.where(words[:, :, 1] % 2 == 0, 1.0, -1.0)
