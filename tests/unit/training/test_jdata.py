from pathlib import Path

import pytest

from nextact_server.training import jdata
from nextact_server.training.datasets import DataError

TRAIN = """action_time,user_id,sku_id,type,sessionId,index
2018-03-01 00:00:06,7,159865,1,42,1519862406.0
2018-03-01 00:00:05,7,37315,2,42,1519862405.0
2018-03-01 00:00:09,8,37315,3,83,1519862409.0
2018-03-01 00:00:09,8,37315,3,83,1519862409.0
2018-03-01 00:00:10,8,159865,4,83,1519862410.0
"""
ATTRIBUTES = "head\ttail\trelation\n1\t4\t1\n1\t5\t2\n2\t4\t1\n2\t6\t3\n2\t7\t4\n"
ENTITIES = (
    "entity\tid\ttype\n0\t0\t0\n159865\t1\titem\n37315\t2\titem\n5\t3\titem\n"
    "901\t4\tbrand\n17\t5\tshop\n17\t6\tcate\n201102\t7\tyears\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in zip(jdata.FILES, (TRAIN, ATTRIBUTES, ENTITIES), strict=True):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_types_become_actions_in_order_of_time(folder: Path) -> None:
    events = jdata.load(folder).events
    assert events.select("user_id", "item_id", "action").rows() == [
        ("7", "37315", "order"),
        ("7", "159865", "view"),
        ("8", "37315", "follow"),
        ("8", "37315", "follow"),
        ("8", "159865", "comment"),
    ]


def test_times_are_utc_as_the_index_column_says(folder: Path) -> None:
    assert jdata.load(folder).events["event_time"].dt.epoch("s").to_list()[:2] == [1519862405, 1519862406]


def test_every_product_is_an_item_and_its_relations_are_attributes(folder: Path) -> None:
    data = jdata.load(folder)
    assert set(data.items) == {"159865", "37315", "5"}
    assert not any(data.items.values())
    assert data.attributes is not None
    assert set(data.attributes.rows()) == {
        ("159865", "brand:901", 1),
        ("159865", "shop:17", 1),
        ("37315", "brand:901", 1),
        ("37315", "category:17", 1),
        ("37315", "year:201102", 1),
    }


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("train.csv", ",sku_id,", ",sku,", "column 'sku_id' is missing"),
        ("train.csv", "37315,2,42", "37315,5,42", "line 3: column 'type': '5'"),
        ("train.csv", "2018-03-01 00:00:10", "yesterday", "line 6: column 'action_time': 'yesterday'"),
        ("train.csv", "8,159865,4", ",159865,4", "line 6: column 'user_id': None"),
        ("train.csv", TRAIN[TRAIN.index("\n") + 1 :], "", "there is no event"),
        ("item_attributes.tsv", "2\t7\t4", "2\t7\t9", "line 6: column 'relation': '9'"),
        ("item_attributes.tsv", "1\t5\t2", "77\t5\t2", "line 3: column 'head': '77'"),
        ("item_attributes.tsv", "1\t5\t2", "1\t77\t2", "line 3: column 'tail': '77'"),
        ("entities.tsv", "entity\t", "name\t", "column 'entity' is missing"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(folder: Path, name: str, old: str, new: str, said: str) -> None:
    path = folder / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=said) as caught:
        jdata.load(folder)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "entities.tsv").unlink()
    with pytest.raises(DataError, match=r"entities\.tsv: cannot be read"):
        jdata.load(folder)
