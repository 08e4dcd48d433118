"""Rank: the best items for a user, recording nothing."""

from pathlib import Path

import pytest
from support.event_makers import event, new_name, predict, story
from support.refusals import refused
from support.serving import SHIPPED_MODELS, Serving, StartServer
from support.tiny_model import ITEMS, write_repository

from nextact.v1 import behavior_pb2 as pb


def rank(server: Serving, user: str, **fields: object) -> pb.RankResponse:
    return server.stub.Rank(pb.RankRequest(user_id=user, **fields))


def ids(answer: pb.RankResponse) -> list[str]:
    return [item.item_id for item in answer.items]


@pytest.fixture
def user(server: Serving) -> str:
    name = new_name()
    server.stub.Predict(predict(story(name, 8)))
    return name


def test_candidates_are_scored_best_first_and_unknown_ids_left_out(server: Serving, user: str) -> None:
    answer = rank(server, user, candidates=[*ITEMS[:6], "no such item", ITEMS[2]])
    assert sorted(ids(answer)) == sorted(ITEMS[:6])
    order = [(-item.score, item.item_id) for item in answer.items]
    assert order == sorted(order)
    assert answer.events_seen == 8
    assert answer.model.version == "1"


def test_scores_of_candidates_are_those_of_the_whole_catalogue(server: Serving, user: str) -> None:
    everything = {item.item_id: item.score for item in rank(server, user, top_k=1000).items}
    assert set(ITEMS) <= set(everything)
    for item in rank(server, user, candidates=ITEMS[10:20]).items:
        assert item.score == pytest.approx(everything[item.item_id], abs=1e-5)


def test_rank_and_predict_agree_on_the_items(server: Serving, user: str) -> None:
    predicted = server.stub.Predict(predict(story(user, 1, start=8), top_k=5)).predictions[0].items
    ranked = rank(server, user, top_k=5).items
    assert [item.item_id for item in predicted] == [item.item_id for item in ranked]
    assert [item.score for item in predicted] == pytest.approx([item.score for item in ranked], abs=1e-5)


def test_twenty_thousand_candidates_are_ranked_and_one_more_is_refused(server: Serving, user: str) -> None:
    many = [*ITEMS, *(f"x{number}" for number in range(20_000 - len(ITEMS)))]
    assert sorted(ids(rank(server, user, candidates=many))) == sorted(ITEMS)
    refusal = refused(lambda: rank(server, user, candidates=[*many, "one more"]))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("candidates",))
    assert "20001" in refusal.message
    assert "max_candidates" in refusal.message


def test_top_k_bounds_candidates_too(server: Serving, user: str) -> None:
    assert ids(rank(server, user, candidates=ITEMS, top_k=4)) == ids(rank(server, user, candidates=ITEMS))[:4]


def test_only_unknown_candidates_give_no_items(server: Serving, user: str) -> None:
    assert ids(rank(server, user, candidates=["a", "b"])) == []


def test_a_user_never_seen_is_ranked_from_the_initial_state(server: Serving) -> None:
    first, second = (rank(server, new_name(), top_k=20) for _ in range(2))
    assert first.events_seen == 0
    assert ids(first) == ids(second)
    assert len(first.items) == 20


def test_ranking_a_user_never_seen_does_not_make_the_user_known(server: Serving) -> None:
    user = new_name()
    rank(server, user)
    assert refused(lambda: server.stub.GetUser(pb.GetUserRequest(user_id=user))).code.name == "NOT_FOUND"


def test_a_visitor_is_ranked_by_anonymous_id(server: Serving) -> None:
    visitor = new_name("visitor")
    server.stub.Predict(predict([event(anonymous_id=visitor)]))
    assert server.stub.Rank(pb.RankRequest(anonymous_id=visitor)).events_seen == 1


@pytest.mark.parametrize("names", [{}, {"user_id": "a", "anonymous_id": "b"}])
def test_exactly_one_id_is_expected(server: Serving, names: dict[str, str]) -> None:
    refusal = refused(lambda: server.stub.Rank(pb.RankRequest(**names)))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("user_id",))


def test_filters_hold_together(server: Serving, user: str) -> None:
    wish = pb.ItemFilter(include_item_ids=ITEMS[:5], exclude_item_ids=[ITEMS[1], "unknown"])
    assert sorted(ids(rank(server, user, filter=wish))) == [ITEMS[0], *ITEMS[2:5]]
    both = rank(server, user, candidates=ITEMS[3:9], filter=wish)
    assert sorted(ids(both)) == list(ITEMS[3:5])


def test_an_include_list_without_a_common_item_leaves_nothing(server: Serving, user: str) -> None:
    wish = pb.ItemFilter(include_item_ids=["unknown"])
    assert ids(rank(server, user, filter=wish)) == []
    assert ids(rank(server, user, candidates=ITEMS[:3], filter=wish)) == []


def test_exclude_seen_leaves_out_the_stored_history_and_what_the_call_itself_brings(server: Serving) -> None:
    user = new_name()
    seen = [ITEMS[4], ITEMS[9]]
    server.stub.Predict(predict([event(user, 0, item_id=seen[0])]))
    wish = pb.ItemFilter(exclude_seen=True)
    request = predict([event(user, 1, item_id=seen[1])], top_k=60, filter=wish)
    predicted = {item.item_id for item in server.stub.Predict(request).predictions[0].items}
    assert predicted & set(ITEMS) == set(ITEMS) - set(seen)
    assert set(ids(rank(server, user, top_k=1000, filter=wish))) & set(ITEMS) == set(ITEMS) - set(seen)
    assert set(ids(rank(server, user, top_k=1000))) >= set(ITEMS)
    assert ids(rank(server, user, candidates=[*seen, ITEMS[0]], filter=wish)) == [ITEMS[0]]


def test_a_longer_history_is_seen_as_it_grows(server: Serving) -> None:
    user = new_name()
    wish = pb.ItemFilter(exclude_seen=True)
    for number in range(12):
        request = predict([event(user, number, item_id=ITEMS[number])], top_k=1000, filter=wish)
        there = {item.item_id for item in server.stub.Predict(request).predictions[0].items}
        assert there & set(ITEMS) == set(ITEMS[number + 1 :])


@pytest.mark.parametrize(("fields", "field"), [({"top_k": -1}, "top_k"), ({"top_k": 1001}, "top_k")])
def test_top_k_out_of_range_is_refused(server: Serving, fields: dict[str, int], field: str) -> None:
    refusal = refused(lambda: rank(server, "ada", **fields))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", (field,))
    assert "max_top_k" in refusal.message


def test_the_model_card_says_whether_seen_items_are_left_out_and_a_call_may_say_otherwise(
    start_server: StartServer, tmp_path: Path
) -> None:
    once_only = write_repository(tmp_path / "models", SHIPPED_MODELS, exclude_seen=True)
    server = start_server(model_repository=once_only)
    user = new_name()
    (prediction,) = server.stub.Predict(predict([event(user, item_id=ITEMS[6])], top_k=1000)).predictions
    assert {item.item_id for item in prediction.items} == set(ITEMS) - {ITEMS[6]}
    assert set(ids(rank(server, user, top_k=1000))) == set(ITEMS) - {ITEMS[6]}
    assert set(ids(rank(server, user, top_k=1000, filter=pb.ItemFilter(exclude_seen=False)))) == set(ITEMS)
