"""next_action by ModelInfer is the model that Predict asks: one user, one state, whichever door an event came by."""

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from support.event_makers import START_US, new_name, predict, story
from support.serving import Serving
from support.tensors import event_inputs, tensor, words
from tritonclient.utils import InferenceServerException

from nextact.v1 import behavior_pb2 as pb

Client = grpcclient.InferenceServerClient


def columns(events: list[pb.Event], *names: str) -> dict[str, list[Any]]:
    every = {
        "action": [event.action for event in events],
        "item_id": [event.item_id for event in events],
        "event_time_us": [event.event_time.ToMicroseconds() for event in events],
        "message_id": [event.message_id for event in events],
    }
    return {name: every[name] for name in names or every}


def infer(client: Client, user: str | int, events: list[pb.Event], *names: str, **options: Any) -> Any:
    return client.infer("next_action", event_inputs(columns(events, *names)), sequence_id=user, **options)


def state_of(kserve: Serving, user: str) -> pb.Prediction:
    """The user as they are, by an event that changes nothing."""
    probe = predict(story(user, 1, start=900), dry_run=True)
    return kserve.stub.Predict(probe).predictions[0]


def test_events_by_either_door_move_the_same_state(kserve: Serving, client: Client) -> None:
    mixed, plain = new_name(), new_name()
    events = {user: story(user, 12) for user in (mixed, plain)}
    kserve.stub.Predict(predict(events[plain]))
    infer(client, mixed, events[mixed][:3])
    kserve.stub.Predict(predict(events[mixed][3:5]))
    infer(client, mixed, events[mixed][5:6], sequence_start=True, sequence_end=True)
    infer(client, mixed, events[mixed][6:])
    ours, theirs = state_of(kserve, mixed), state_of(kserve, plain)
    assert ours.events_seen == theirs.events_seen
    np.testing.assert_allclose(ours.embedding, theirs.embedding, atol=1e-5)
    user = kserve.stub.GetUser(pb.GetUserRequest(user_id=mixed))
    assert user.events_seen == 12


def test_the_answer_is_predicts(kserve: Serving, client: Client) -> None:
    asked, reference = new_name(), new_name()
    answer = infer(client, asked, story(asked, 5), parameters={"top_k": 4})
    prediction = kserve.stub.Predict(predict(story(reference, 5), top_k=4)).predictions[0]
    np.testing.assert_allclose(answer.as_numpy("embedding")[-1], prediction.embedding, atol=1e-5)
    names = client.get_model_config("next_action").config.parameters["actions"].string_value.split(",")
    scores = dict(zip(names, answer.as_numpy("action_scores")[-1].tolist(), strict=True))
    assert scores == pytest.approx({action.action: action.score for action in prediction.actions}, abs=1e-5)
    items = [item.item_id.encode() for item in prediction.items]
    assert answer.as_numpy("item_ids")[-1].tolist() == items
    np.testing.assert_allclose(answer.as_numpy("item_scores")[-1], [item.score for item in prediction.items], atol=1e-4)
    assert answer.as_numpy("events_seen").reshape(-1).tolist() == [1, 2, 3, 4, 5]


def test_rows_get_what_holds_after_each_of_them(kserve: Serving, client: Client) -> None:
    at_once, one_by_one = new_name(), new_name()
    together = infer(client, at_once, story(at_once, 4)).as_numpy("embedding")
    apart = [infer(client, one_by_one, [event]).as_numpy("embedding")[0] for event in story(one_by_one, 4)]
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_a_number_and_its_digits_are_the_same_user(kserve: Serving, client: Client) -> None:
    number = 7_000_000 + int(new_name().rsplit("-", 1)[1])
    infer(client, number, story(str(number), 2))
    infer(client, str(number), story(str(number), 3, start=2))
    assert kserve.stub.GetUser(pb.GetUserRequest(user_id=str(number))).events_seen == 5


def test_a_sequence_must_be_named(client: Client) -> None:
    for options in ({}, {"sequence_id": 0}, {"sequence_id": ""}):
        with pytest.raises(InferenceServerException) as refused:
            client.infer("next_action", event_inputs({"action": ["view"]}), **options)
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert "correlation ID" in refused.value.message()


def test_a_message_id_makes_a_repetition_a_duplicate_and_none_makes_it_another_event(client: Client) -> None:
    user = new_name()
    sent = {"action": ["view"], "item_id": ["item-01"], "event_time_us": [START_US], "message_id": ["m-1"]}
    first = client.infer("next_action", event_inputs(sent), sequence_id=user)
    again = client.infer("next_action", event_inputs(sent), sequence_id=user, request_id="another")
    assert first.as_numpy("status").tolist() == [[b"ACCEPTED"]]
    assert again.as_numpy("status").tolist() == [[b"DUPLICATE"]]
    np.testing.assert_array_equal(first.as_numpy("embedding"), again.as_numpy("embedding"))
    del sent["message_id"]
    for seen in (2, 3):
        answer = client.infer("next_action", event_inputs(sent), sequence_id=user, request_id="same")
        assert answer.as_numpy("status").tolist() == [[b"ACCEPTED"]]
        assert answer.as_numpy("events_seen").tolist() == [[seen]]


def test_what_is_not_said_has_a_default(client: Client) -> None:
    answer = client.infer("next_action", event_inputs({"action": ["view", "like"]}), sequence_id=new_name())
    assert answer.as_numpy("status").tolist() == [[b"ACCEPTED"], [b"ACCEPTED"]]
    assert answer.as_numpy("item_ids").shape == (2, 10)


def test_a_bad_row_never_fails_its_neighbours(client: Client) -> None:
    answer = client.infer("next_action", event_inputs({"action": ["view", "", "like"]}), sequence_id=new_name())
    assert [row[0] for row in answer.as_numpy("status")] == [b"ACCEPTED", b"INVALID", b"ACCEPTED"]
    assert answer.as_numpy("reason")[1, 0].startswith(b"action:")
    assert answer.as_numpy("events_seen").reshape(-1).tolist() == [1, 1, 2]


def test_suppressed_users_get_nothing(kserve: Serving, client: Client) -> None:
    user = new_name()
    kserve.stub.DeleteUser(pb.DeleteUserRequest(user_id=user, suppress=True))
    answer = infer(client, user, story(user, 1))
    assert answer.as_numpy("status").tolist() == [[b"SUPPRESSED"]]
    assert not answer.as_numpy("embedding").any()
    assert set(answer.as_numpy("item_ids").reshape(-1)) == {b""}


def test_only_what_is_asked_comes_back(client: Client) -> None:
    outputs = [grpcclient.InferRequestedOutput("events_seen")]
    answer = client.infer(
        "next_action", event_inputs({"action": ["view"]}), sequence_id=new_name(), outputs=outputs
    ).get_response()
    assert [output.name for output in answer.outputs] == ["events_seen"]


@pytest.mark.parametrize("asked", ["status", "events_seen", "embedding", "action_scores", "item_ids"])
def test_several_rows_may_ask_for_any_one_output(client: Client, asked: str) -> None:
    user = new_name()
    outputs = [grpcclient.InferRequestedOutput(asked)]
    for seen in (3, 6):
        inputs = event_inputs({"action": ["view", "like", "buy"]})
        answer = client.infer("next_action", inputs, sequence_id=user, outputs=outputs)
        assert len(answer.as_numpy(asked)) == 3
        if asked == "events_seen":
            assert answer.as_numpy(asked)[-1, 0] == seen


@pytest.mark.parametrize(
    ("inputs", "parameters", "named"),
    [
        ({"action": ["view"]}, {"top_k": 0}, "top_k"),
        ({"action": ["view"]}, {"top_k": 100_000}, "max_top_k"),
        ({"action": ["view"]}, {"top_k": "ten"}, "top_k"),
        ({"action": [b"\xff\xfe"]}, {}, "action"),
        ({"item_id": ["item-01"]}, {}, "action"),
        ({"action": ["view"] * 1001}, {}, "max_predict_events"),
    ],
)
def test_mistakes_are_named(client: Client, inputs: dict[str, Any], parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer("next_action", event_inputs(inputs), sequence_id=new_name(), parameters=parameters)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert named in refused.value.message()


def test_streams_of_sequences_work_too(kserve: Serving, client: Client) -> None:
    import queue

    user = new_name()
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: arrived.put((result, error)))
    for event in story(user, 6):
        client.async_stream_infer("next_action", event_inputs(columns([event])), sequence_id=user)
    results = [arrived.get(timeout=10) for _ in range(6)]
    client.stop_stream()
    assert [error for _, error in results] == [None] * 6
    assert sorted(int(result.as_numpy("events_seen")[0, 0]) for result, _ in results) == [1, 2, 3, 4, 5, 6]
    assert kserve.stub.GetUser(pb.GetUserRequest(user_id=user)).events_seen == 6


def test_texts_and_images_are_embedded_as_embed_does(kserve: Serving, client: Client) -> None:
    from support.pictures import picture

    texts = ["a sweet tropical fruit", "a robot learns to paint"]
    answer = client.infer("text_encoder", [tensor("text", words(*texts))]).as_numpy("embedding")
    request = pb.EmbedRequest(contents=[pb.Content(text=text) for text in texts])
    for row, embedding in zip(answer, kserve.stub.Embed(request).embeddings, strict=True):
        np.testing.assert_array_equal(row, np.array(embedding.values, np.float32))
    image = picture()
    answer = client.infer("image_encoder", [tensor("image", words(image, image))]).as_numpy("embedding")
    embedded = kserve.stub.Embed(pb.EmbedRequest(contents=[pb.Content(image=image)])).embeddings[0].values
    np.testing.assert_array_equal(answer, np.array([embedded, embedded], np.float32))


def test_pixels_are_embedded_like_the_image_they_are_of(client: Client) -> None:
    import io

    from PIL import Image
    from support.pictures import picture

    image = picture(kind="PNG")
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))[None]
    by_pixels = client.infer("image_encoder", [tensor("pixels", pixels)]).as_numpy("embedding")
    by_image = client.infer("image_encoder", [tensor("image", words(image))]).as_numpy("embedding")
    np.testing.assert_allclose(by_pixels, by_image, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "inputs", "named"),
    [
        ("image_encoder", lambda: [tensor("image", words(b"not an image"))], "row 0"),
        ("image_encoder", list, "image"),
        ("text_encoder", lambda: [tensor("text", words(b"\xff"))], "UTF-8"),
        ("text_encoder", lambda: [tensor("text", words(b""))], "row 0"),
    ],
)
def test_contents_that_cannot_be_encoded_are_the_callers_mistake(
    client: Client, model: str, inputs: Any, named: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, inputs())
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert named in refused.value.message()
