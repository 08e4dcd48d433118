"""A house of python models for each test, closed after it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from python_house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close_all()
