"""The command `nextact`: what the client does, from a shell.

Exit codes: 0, 1 for an error (one line on stderr), 2 for wrong usage.
"""

from __future__ import annotations

import sys

import typer

from nextact.cli import items, live, stream, users
from nextact.errors import NextactError


def build() -> typer.Typer:
    """Puts the commands together."""
    app = typer.Typer(
        help="Send what users do to a nextact server, and ask who they are and what they do next.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.command()(live.predict)
    app.command()(stream.stream)
    app.command()(live.embed)
    app.command()(live.rank)
    app.add_typer(items.build(), name="item")
    app.add_typer(users.build(), name="user")
    return app


def main() -> None:
    """Runs the command of `sys.argv`."""
    try:
        build()()
    except (NextactError, OSError, ValueError, TypeError, NotImplementedError) as error:
        print(f"nextact: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
