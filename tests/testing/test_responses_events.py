"""The provider on loopback in the words of Responses: the events that clients such as Codex wait for, in their order."""

import http.client
import json

import jsonschema
import pytest

from orchestrai.testing import Answer, ProviderServer
from orchestrai.testing.answers import answer_to

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["bug", "billing"]}},
    "required": ["kind"],
    "additionalProperties": False,
}


def ask(server, **body):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/v1/responses", json.dumps({"model": "m", "input": "hello", **body}))
    reply = connection.getresponse()
    raw = reply.read()
    connection.close()
    return reply.status, raw


def events(server, **body):
    """Return (name, data) of each event."""
    status, raw = ask(server, stream=True, **body)
    assert status == 200
    found = []
    for block in raw.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in found)
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    return found


def test_a_message_is_opened_filled_closed_and_told_once_more_at_the_end():
    with ProviderServer(replies="one two") as server:
        found = events(server)
    assert [name for name, _ in found] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    data = [data for _, data in found]
    assert (data[0]["response"]["status"], data[0]["response"]["usage"]) == ("in_progress", None)
    assert (data[2]["item"]["status"], data[2]["item"]["content"]) == ("in_progress", [])
    assert "".join(one["delta"] for one in data[4:6]) == data[6]["text"] == data[7]["part"]["text"] == "one two"
    ids = {one["item_id"] for one in data[3:8]} | {data[2]["item"]["id"], data[8]["item"]["id"]}
    assert ids == {"msg_0"}
    assert data[9]["response"]["output"] == [data[8]["item"]]
    assert data[9]["response"]["status"] == "completed"


def test_reasoning_is_an_item_before_the_message_and_every_token_class_is_counted():
    answer = Answer(
        "Hi.", input_tokens=1_200, cached_tokens=1_024, cache_write_tokens=76, output_tokens=60, reasoning_tokens=32
    )
    with ProviderServer(replies=lambda _: answer) as server:
        last = events(server)[-1][1]["response"]
        whole = json.loads(ask(server)[1])
    for found in (last, whole):
        assert [item["type"] for item in found["output"]] == ["reasoning", "message"]
        assert found["usage"] == {
            "input_tokens": 1_200,
            "input_tokens_details": {"cached_tokens": 1_024, "cache_write_tokens": 76},
            "output_tokens": 60,
            "output_tokens_details": {"reasoning_tokens": 32},
            "total_tokens": 1_260,
        }


@pytest.mark.parametrize(
    ("answer", "status", "more"),
    [
        (Answer("half", "length"), "incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}),
        (Answer("half", "content_filter"), "incomplete", {"incomplete_details": {"reason": "content_filter"}}),
        (
            Answer("", more={"status": "failed", "error": {"code": "server_error", "message": "no"}}),
            "failed",
            {"error": {"code": "server_error", "message": "no"}, "output": []},
        ),
    ],
)
def test_the_last_event_is_named_for_how_it_ended(answer, status, more):
    with ProviderServer(replies=lambda _: answer) as server:
        name, data = events(server)[-1]
        whole = json.loads(ask(server)[1])
    assert name == f"response.{status}"
    for found in (data["response"], whole):
        assert found["status"] == status
        assert {key: found[key] for key in more} == more


def test_a_refusal_is_a_part_of_its_own():
    with ProviderServer(replies=lambda _: Answer("", refusal="I cannot.")) as server:
        found = events(server)
    said = [data["delta"] for name, data in found if name == "response.refusal.delta"]
    assert "".join(said) == "I cannot."
    assert found[-1][1]["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "I cannot."}]


@pytest.mark.parametrize(
    "asked",
    [
        "the question",
        [{"role": "user", "content": "the question"}],
        [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "before"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "the question"}]},
            {"type": "reasoning", "summary": []},
        ],
    ],
)
def test_the_prompt_is_the_last_user_message_in_every_form_of_the_input(asked):
    with ProviderServer() as server:
        whole = json.loads(ask(server, input=asked)[1])
        assert server.prompts == ["the question"]
    assert whole["output"][0]["content"][0]["text"] == answer_to("the question")


def test_a_schema_is_answered_by_an_instance_of_it():
    constraint = {"format": {"type": "json_schema", "name": "a", "strict": True, "schema": SCHEMA}}
    with ProviderServer() as server:
        whole = json.loads(ask(server, text=constraint)[1])
        jsonschema.validate(json.loads(whole["output"][0]["content"][0]["text"]), SCHEMA)
        assert "kind" not in json.loads(ask(server, text={"verbosity": "low"})[1])["output"][0]["content"][0]["text"]


def test_what_is_no_request_is_refused_in_the_words_of_openai():
    with ProviderServer(script=[429]) as server:
        status, raw = ask(server)
        assert (status, json.loads(raw)["error"]["code"]) == (429, "rate_limit_exceeded")
        status, raw = ask(server, input=[7])
        assert (status, json.loads(raw)["error"]["type"]) == (400, "invalid_request_error")
