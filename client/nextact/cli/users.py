"""`nextact user`: what is held about users, and its erasure."""

from __future__ import annotations

from typing import Annotated

import typer

from nextact.cli import output
from nextact.cli.options import DEFAULT_SERVER, Anonymous, Json, Server, Timeout
from nextact.sync_client import Client

_UserId = Annotated[str, typer.Argument(metavar="USER")]


def build() -> typer.Typer:
    """Puts the commands together."""
    app = typer.Typer(help="Read and erase users.", no_args_is_help=True, rich_markup_mode=None)
    app.command()(get)
    app.command()(delete)
    return app


def get(
    user: _UserId = "",
    anonymous: Anonymous = "",
    page_size: Annotated[int, typer.Option(help="Events per page (0: the server's default).")] = 0,
    page_token: Annotated[str, typer.Option(help="From the page before.")] = "",
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Print what is held about a user, newest event first."""
    _require_one(user, anonymous)
    with Client(server) as client:
        found = client.get_user(
            user, anonymous_id=anonymous, page_size=page_size, page_token=page_token, timeout=timeout
        )
    if json:
        output.print_json(found)
        return
    title = f"{user or anonymous}: {found.events_seen} events" + (", suppressed" if found.suppressed else "")
    rows = [
        (entry.event.event_time, entry.event.action, entry.event.item_id, entry.event.text, entry.status, entry.applied)
        for entry in found.history
    ]
    output.print_table(title, ("time", "action", "item", "text", "status", "applied"), rows)
    if found.next_page_token:
        output.note(f"more with --page-token {found.next_page_token}")


def delete(
    user: _UserId = "",
    anonymous: Anonymous = "",
    suppress: Annotated[bool, typer.Option("--suppress", help="Also refuse the user's later events.")] = False,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Erase a user: history, state, message ids and memory."""
    _require_one(user, anonymous)
    with Client(server) as client:
        existed = client.delete_user(user, anonymous_id=anonymous, suppress=suppress, timeout=timeout)
    if json:
        output.print_json({"existed": existed})
    else:
        print("erased" if existed else "nothing was held")


def _require_one(user: str, anonymous: str) -> None:
    if bool(user) == bool(anonymous):
        raise typer.BadParameter("give either a user or --anonymous")
