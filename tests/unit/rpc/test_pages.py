"""Pages: sizes within their limit, and tokens that say only what they were made of."""

from collections.abc import Callable

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.rpc.errors import CallError
from nextact_server.rpc.pages import DEFAULT_PAGE, cursor_of, name_of, page_size, token_of


def refusal(read: Callable[[str], object], token: str) -> CallError | None:
    try:
        read(token)
    except CallError as error:
        return error
    return None


@given(name=st.text())
@settings(max_examples=100, deadline=None)
def test_a_token_says_what_it_was_made_of(name: str) -> None:
    token = token_of(name)
    assert name_of(token) == name
    assert token.isascii()


@given(number=st.integers(0, 2**59))
@settings(max_examples=50, deadline=None)
def test_a_cursor_says_its_number(number: int) -> None:
    assert cursor_of(token_of(str(number))) == number


def test_no_token_is_the_first_page() -> None:
    assert name_of("") == ""
    assert cursor_of("") is None


@given(token=st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("latin-1")), st.text(alphabet="AZaz09-_=")))
@settings(max_examples=300, deadline=None)
def test_any_other_token_is_read_or_an_invalid_argument(token: str) -> None:
    for read in (name_of, cursor_of):
        refused = refusal(read, token)
        assert refused is None or refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused is None or refused.violation.field == "page_token"


@pytest.mark.parametrize("name", ["-1", "1.5", "x", "1" * 19, "٣", " 1", "1_0"])
def test_a_token_that_is_no_number_is_no_cursor(name: str) -> None:
    with pytest.raises(CallError, match="was not given out by a page before"):
        cursor_of(token_of(name))


def test_a_page_size_is_what_was_asked_within_the_limit() -> None:
    assert page_size(7, 1000) == 7
    assert page_size(1000, 1000) == 1000
    assert page_size(0, 1000) == DEFAULT_PAGE
    assert page_size(0, 5) == 5
    for asked in (-1, 1001):
        with pytest.raises(CallError, match=rf"page_size: {asked} is not in 0\.\.1000 \(max_page_size\)"):
            page_size(asked, 1000)
