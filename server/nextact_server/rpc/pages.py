"""Page sizes and tokens of the listing methods."""

import base64
import binascii

from nextact_server.rpc.errors import invalid

DEFAULT_PAGE = 100


def page_size(asked: int, limit: int) -> int:
    """How many entries a page has. Raises INVALID_ARGUMENT."""
    if not 0 <= asked <= limit:
        raise invalid("page_size", f"{asked} is not in 0..{limit} (max_page_size)")
    return asked or min(DEFAULT_PAGE, limit)


def token_of(name: str) -> str:
    """The token of the page that begins after `name`."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def name_of(token: str) -> str:
    """What a token was made of, '' for the first page. Raises INVALID_ARGUMENT for a token never given out."""
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise invalid("page_token", f"{token[:64]!r} was not given out by a page before") from error


def cursor_of(token: str) -> int | None:
    """The number that a token was made of, None for the first page. Raises INVALID_ARGUMENT."""
    name = name_of(token)
    if not name:
        return None
    if not name.isascii() or not name.isdigit() or len(name) > 18:
        raise invalid("page_token", f"{token[:64]!r} was not given out by a page before")
    return int(name)
