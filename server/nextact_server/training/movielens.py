"""MovieLens as events and items: the one reading of it that training, evaluation and replay share."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from nextact_server.training.datasets import DataError, Dataset, fingerprint, in_order

FILES = ("ratings.csv", "tags.csv", "movies.csv")
ACTIONS = ("like", "watch", "dislike", "tag")
RATING_ACTIONS = ("like", "watch", "dislike")
LICENCE = "GroupLens: non-commercial use, redistribution under the same terms (README.txt beside the data)"

_COLUMNS = {
    "ratings.csv": ("userId", "movieId", "rating", "timestamp"),
    "tags.csv": ("userId", "movieId", "tag", "timestamp"),
    "movies.csv": ("movieId", "title", "genres"),
}
_NO_GENRES = "(no genres listed)"


def item_text(title: str, genres: str) -> str:
    """Return the text that stands for a movie, "Title (Year). Genre, Genre".

    `genres` is MovieLens' own "Genre|Genre"; a movie without genres is its title alone.
    """
    names = [name for name in genres.split("|") if name and name != _NO_GENRES]
    return f"{title.strip()}. {', '.join(names)}" if names else title.strip()


def load(folder: Path) -> Dataset:
    """Read ratings.csv, tags.csv and movies.csv of a MovieLens "latest" folder.

    A rating of 4 or more is a "like", 3 to 3.5 a "watch", below 3 a "dislike"; a tag is a "tag" with its words as
    text. Every movie is an item, rated or not. Raises DataError naming the file.
    """
    paths = [folder / name for name in FILES]
    sha256 = fingerprint(paths)
    ratings, tags, movies = (_read(path) for path in paths)
    events = pl.concat([_rating_events(ratings), _tag_events(tags)])
    items = {
        str(movie): item_text(title, genres)
        for movie, title, genres in movies.select("movieId", "title", "genres").iter_rows()
    }
    return Dataset(
        name="MovieLens latest-small",
        events=in_order(events),
        items=items,
        sha256=sha256,
        licence=LICENCE,
    )


def _read(path: Path) -> pl.DataFrame:
    try:
        table = pl.read_csv(path, schema_overrides={"tag": pl.String, "title": pl.String, "genres": pl.String})
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: not a MovieLens CSV file: {error}") from error
    missing = [column for column in _COLUMNS[path.name] if column not in table.columns]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; it has {table.columns}")
    return table


def _rating_events(ratings: pl.DataFrame) -> pl.DataFrame:
    rating = pl.col("rating")
    action = (
        pl.when(rating >= 4).then(pl.lit("like")).when(rating >= 3).then(pl.lit("watch")).otherwise(pl.lit("dislike"))
    )
    return _events(ratings, action, pl.lit(None, dtype=pl.String))


def _tag_events(tags: pl.DataFrame) -> pl.DataFrame:
    return _events(tags, pl.lit("tag"), pl.col("tag"))


def _events(rows: pl.DataFrame, action: pl.Expr, text: pl.Expr) -> pl.DataFrame:
    return rows.select(
        user_id=pl.col("userId").cast(pl.String),
        anonymous=pl.lit(False),
        action=action,
        item_id=pl.col("movieId").cast(pl.String),
        event_time=pl.from_epoch("timestamp", time_unit="s").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        text=text,
    )
