import builtins
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from made_up import sequences_of

from nextact_server.sequence.config import FIRST_ACTION, UNKNOWN_ACTION
from nextact_server.training.action_baselines import action_features, last_action
from nextact_server.training.classifiers import FOREST, LOGISTIC, MissingClassifiers, classifiers
from nextact_server.training.judging import judge
from nextact_server.training.prepare import Judged
from nextact_server.training.sequences import ABSENT, Sequences

VIEW, BUY = FIRST_ACTION, FIRST_ACTION + 1


def habits(users: int, seed: int) -> Sequences:
    """Everyone buys what was looked at twice in a row, and looks on otherwise."""
    rng = np.random.default_rng(seed)
    items, actions = [], []
    for _ in range(users):
        own = rng.integers(0, 3, 25).tolist()
        acted = [VIEW, VIEW]
        acted += [BUY if own[at - 1] == own[at - 2] and rng.random() < 0.9 else VIEW for at in range(2, 25)]
        items.append(own)
        actions.append(acted)
    return sequences_of(items, actions=actions, gaps=[[-1] + [10**6] * 24] * users)


def test_the_features_are_what_the_user_did_before() -> None:
    second = 10**6
    sequences = sequences_of(
        [[7, 7, ABSENT, ABSENT], [1]],
        actions=[[VIEW, BUY, UNKNOWN_ACTION, VIEW], [BUY]],
        gaps=[[-1, 9 * second, 0, 5], [-1]],
    )
    found = action_features(sequences, np.arange(5), 2)
    nothing, unknown, view, buy = np.eye(4)[[0, UNKNOWN_ACTION, VIEW, BUY]]
    #        last action  same  gap         no gap  views        buys         events
    wanted = [
        [*nothing, 0, 0.0, 1, 0.0, 0.0, 0.0],
        [*view, 0, 0.0, 1, math.log(2), 0.0, math.log(2)],
        [*buy, 1, math.log(10), 0, math.log(2), math.log(2), math.log(3)],
        [*unknown, 0, 0.0, 0, math.log(2), math.log(2), math.log(4)],
        [*nothing, 0, 0.0, 1, 0.0, 0.0, 0.0],
    ]
    np.testing.assert_allclose(found, wanted)


def test_the_last_action_is_the_likeliest_and_the_others_go_by_their_shares() -> None:
    train = sequences_of([[0] * 6], actions=[[VIEW, BUY, BUY, FIRST_ACTION + 2, VIEW, BUY]])
    rival = last_action(train, 3)
    asked = sequences_of([[0] * 4], actions=[[BUY, UNKNOWN_ACTION, VIEW, VIEW]])
    chances = np.exp(rival.scorer(asked, np.arange(4), None).actions)  # type: ignore[arg-type]
    share = np.array([3, 4, 2]) / 9
    assert chances[0] == pytest.approx(share), "nothing came before"
    assert chances[1] == pytest.approx([0.49 * 3 / 5, 0.51, 0.49 * 2 / 5])
    assert chances[2] == pytest.approx(share), "what came before is not known"
    assert chances.sum(axis=1) == pytest.approx(np.ones(4))
    assert rival.settings == {"repeated": 0.51}


def test_a_single_action_is_certain() -> None:
    train = sequences_of([[0, 1]], actions=[[VIEW, VIEW]])
    found = last_action(train, 1).scorer(train, np.arange(2), None).actions
    assert found == pytest.approx(np.zeros((2, 1)))


def test_the_classifiers_learn_from_the_features_and_say_what_was_chosen() -> None:
    train, held_out = habits(60, seed=0), habits(30, seed=1)
    judged = Judged(held_out, held_out.starts[:-1] + 2)
    repeated = judge(last_action(train, 2).scorer, judged, exclude_seen=False)
    for name, rival in classifiers(train, 2).items():
        found = judge(rival.scorer, judged, exclude_seen=False)
        assert found.action_hit.mean() > max(0.85, repeated.action_hit.mean() + 0.1), name
        assert np.isfinite(found.action_log).all()
        assert np.exp(found.action_log).sum(axis=1) == pytest.approx(np.ones(len(found.action)))
        assert len(rival.settings) == 1
        assert rival.seen_log.shape == (len(train.item), 2), "every training event was foretold without its user"


@pytest.mark.parametrize("actions", [[VIEW, VIEW, VIEW], [VIEW, BUY, UNKNOWN_ACTION]])
def test_actions_that_never_came_are_possible_still(actions: Sequence[int]) -> None:
    train = sequences_of([[0, 1, 2]] * 6, actions=[actions] * 5 + [[BUY, BUY, VIEW]])
    for rival in classifiers(train, 4).values():
        found = rival.scorer(train, np.arange(3), None).actions
        assert found is not None
        assert np.isfinite(found).all()
        assert (found[:, 3] < np.log(0.01)).all()


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, scope: Mapping[str, object] | None = None, *rest: object) -> object:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, scope, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingClassifiers, match="pip install scikit-learn"):
        classifiers(habits(3, seed=0), 2)


def test_the_names_are_those_of_the_table() -> None:
    assert set(classifiers(habits(4, seed=0), 2)) == {LOGISTIC, FOREST}
