"""`nextact predict`, `embed` and `rank`: one call each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nextact.cli import options, output
from nextact.cli.options import DEFAULT_SERVER, Anonymous, Attributes, ExcludeSeen, Json, Server, Timeout, TopK
from nextact.messages import as_event
from nextact.sync_client import Client
from nextact.types import Event, ItemFilter, PredictAnswer

_Path = Annotated[Path | None, typer.Option(help="A JPEG, PNG or WebP file that came with it.")]


def predict(
    user: Annotated[str, typer.Option(help="The user.")] = "",
    action: Annotated[str, typer.Option(help='What was done, such as "view".')] = "",
    item: Annotated[str, typer.Option(help="The item it was done to.")] = "",
    anonymous: Anonymous = "",
    text: Annotated[str, typer.Option(help="Words that came with it.")] = "",
    image: _Path = None,
    time: Annotated[str | None, typer.Option(help="When, ISO 8601 with a zone (default: now).")] = None,
    session: Annotated[str, typer.Option(help="The session.")] = "",
    message_id: Annotated[str, typer.Option(help="The key of idempotency (default: a random one).")] = "",
    event: Annotated[
        list[str] | None, typer.Option(metavar="JSON", help="A whole event as a JSON object; may be repeated.")
    ] = None,
    top_k: TopK = 0,
    exclude_seen: ExcludeSeen = None,
    dry_run: Annotated[bool, typer.Option(help="Answer as if, and change nothing.")] = False,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Send what a user did, and print who they are now and what they do next."""
    events = [_read_event(given) for given in event or ()]
    if action:
        events.append(
            Event(
                user_id=user,
                anonymous_id=anonymous,
                action=action,
                item_id=item,
                text=text,
                image=options.image_bytes(image),
                event_time=options.moment(time, "--time"),
                session_id=session,
                message_id=message_id,
            )
        )
    if not events:
        raise typer.BadParameter("give --user and --action, or --event")
    with Client(server) as client:
        answer = client.predict(
            events, top_k=top_k, dry_run=dry_run, filter=ItemFilter(exclude_seen=exclude_seen), timeout=timeout
        )
    if json:
        output.print_json(answer)
    else:
        _print_answer(answer)


def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="An image file; may be repeated.")] = None,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Turn texts and images into vectors."""
    names = [*(texts or ()), *map(str, image or ())]
    if not names:
        raise typer.BadParameter("give a text or --image")
    with Client(server) as client:
        answer = client.embed([*(texts or ()), *(path.read_bytes() for path in image or ())], timeout=timeout)
    if json:
        output.print_json(answer)
        return
    rows = [
        (name, answer.errors.get(i) or output.short_vector(answer.vectors[i].tolist())) for i, name in enumerate(names)
    ]
    output.print_table(f"Embeddings by {answer.model.name}", ("content", "vector"), rows)


def rank(
    user: Annotated[str, typer.Argument(help="The user.")] = "",
    anonymous: Anonymous = "",
    candidate: Annotated[
        list[str] | None, typer.Option(help="An item to score; may be repeated (default: the catalogue).")
    ] = None,
    top_k: TopK = 0,
    exclude_seen: ExcludeSeen = None,
    attribute: Attributes = None,
    as_of: Annotated[str | None, typer.Option(help="The moment asked for, ISO 8601 with a zone.")] = None,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Rank items for a user as they are now; records nothing."""
    if not user and not anonymous:
        raise typer.BadParameter("give a user or --anonymous")
    with Client(server) as client:
        answer = client.rank(
            user,
            anonymous_id=anonymous,
            candidates=candidate or (),
            top_k=top_k,
            filter=ItemFilter(exclude_seen=exclude_seen, attributes=options.pairs(attribute, "--attribute")),
            as_of=options.moment(as_of, "--as-of"),
            timeout=timeout,
        )
    if json:
        output.print_json(answer)
        return
    title = f"Items for {user or anonymous} ({answer.events_seen} events seen)"
    rows = [(place, item_id, score) for place, (item_id, score) in enumerate(answer.items, 1)]
    output.print_table(title, ("", "item", "score"), rows)


def _read_event(text: str) -> Event:
    try:
        fields = json.loads(text)
        return as_event(fields | {name: _time(fields[name]) for name in ("event_time", "sent_at") if name in fields})
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"--event: {error}") from error


def _time(value: object) -> object:
    return options.moment(value, "--event") if isinstance(value, str) else value


def _print_answer(answer: PredictAnswer) -> None:
    refused = [(r.index, r.status, r.field, r.reason) for r in answer.results if r.reason]
    if refused:
        output.print_table("Events not taken as they are", ("event", "status", "field", "reason"), refused)
    rows = [
        (
            who.user_id or f"anonymous {who.anonymous_id}",
            who.events_seen,
            "\n".join(f"{score:6.1%}  {action}" for action, score in who.actions.items()),
            "\n".join(f"{score:+.3f}  {item_id}" for item_id, score in who.items),
            output.short_vector(who.embedding.tolist()),
        )
        for who in answer.predictions
    ]
    output.print_table(
        f"{answer.model.name}/{answer.model.version}",
        ("user", "events seen", "next action", "next items", "embedding"),
        rows,
    )
