"""The scripted platform says what it was told to say, and keeps its own bill."""

import asyncio

import pytest

from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.protocol import Platform, Reply, Request
from orchestrai.testing import ScriptedPlatform, read_bill
from orchestrai.testing.answers import answer_to


def request(prompt):
    return Request((Message("user", prompt),), "m")


def outcomes(platform, *prompts):
    async def each():
        found = []
        for prompt in prompts:
            try:
                found.append((await platform.send(request(prompt))).text)
            except PlatformError as error:
                found.append(error.kind)
        await platform.close()
        return found

    return asyncio.run(each())


def test_it_is_a_platform():
    assert isinstance(ScriptedPlatform(), Platform)


def test_replies_by_text_list_mapping_and_function():
    assert outcomes(ScriptedPlatform(replies="same"), "a", "b") == ["same", "same"]
    broken = PlatformError("window", "used up")
    assert outcomes(ScriptedPlatform(replies=["1", broken, Reply("3")]), *"abcd") == [
        "1",
        "window",
        "3",
        answer_to("d"),
    ]
    by_prompt = ScriptedPlatform(replies={"^a": ["first", "second"], "b": "always"})
    assert outcomes(by_prompt, *"aaabb") == ["first", "second", answer_to("a"), "always", "always"]

    async def later(asked):
        await asyncio.sleep(0)
        return asked.messages[0].text.upper() if asked.messages[0].text != "x" else None

    assert outcomes(ScriptedPlatform(replies=later), "a", "x") == ["A", answer_to("x")]
    assert outcomes(ScriptedPlatform(replies=lambda asked: broken), "a") == ["window"]


def test_faults_go_by_prompt_and_attempt():
    platform = ScriptedPlatform(faults={"p": ["rate", None, "overloaded"]})
    assert outcomes(platform, "p", "q", "p", "p", "p") == [
        "rate",
        answer_to("q"),
        answer_to("p"),
        "overloaded",
        answer_to("p"),
    ]
    by_function = ScriptedPlatform(faults=lambda prompt, attempt: "timeout" if (prompt, attempt) == ("x", 1) else None)
    assert outcomes(by_function, "x", "x", "x") == [answer_to("x"), "timeout", answer_to("x")]
    with pytest.raises(ValueError, match="Did you mean 'rate'"):
        ScriptedPlatform(faults={"p": ["rates"]})


def test_it_counts_what_is_in_flight():
    platform = ScriptedPlatform(delay_s=0.02)

    async def together():
        await asyncio.gather(*(platform.send(request(str(i))) for i in range(7)))

    asyncio.run(together())
    assert (len(platform.requests), platform.in_flight, platform.most_in_flight) == (7, 0, 7)
    assert platform.prompts == [str(i) for i in range(7)]


def test_its_bill_is_written_before_it_replies(tmp_path):
    platform = ScriptedPlatform(bill=tmp_path / "bill", faults={"bad": ["rate"], "cut": ["reply"]})
    outcomes(platform, "good", "bad", "cut")
    lines = read_bill(tmp_path / "bill")
    assert [(line["prompt"], line["outcome"], line["billed_tokens"] > 0) for line in lines] == [
        ("good", "answered", True),
        ("bad", "fault", False),
        ("cut", "fault", True),
    ]


def test_usage_can_be_left_unknown():
    reply = asyncio.run(ScriptedPlatform(usage=False).send(request("x")))
    assert reply.usage.source == "none"


def test_it_serves_any_model_or_those_it_lists():
    assert ScriptedPlatform(model="a").serves("b")
    listed = ScriptedPlatform(model="a", models=["b"])
    assert [listed.serves(model) for model in "abc"] == [True, True, False]
