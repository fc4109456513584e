"""A prompt that cannot fit a context window is refused before it is sent; one that may fit never is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import finished

from orchestrai import Task, tokens
from orchestrai.attachments import from_bytes
from orchestrai.platforms import Capabilities
from orchestrai.platforms.catalogue import with_settings
from orchestrai.pricing import PriceList
from orchestrai.routing.context import fitting, too_long
from orchestrai.routing.offers import Offer, Router
from orchestrai.testing import ScriptedPlatform

WORDS = "The log is written before the table, so that a crash loses nothing. "


def offer(window, model="gpt-6-luna"):
    return Offer(ScriptedPlatform("p", model=model), model, None, "only", context_tokens=window)


def platform(name, window, model="gpt-6-luna"):
    return ScriptedPlatform(name, model=model, capabilities=Capabilities(context_tokens=window))


@pytest.mark.parametrize("beyond", [-30, 0])
def test_a_prompt_that_fits_is_never_refused(beyond):
    text = WORDS * 200
    exact = tokens.count(text, model="gpt-6-luna").value
    assert too_long(Task(text), offer(exact - beyond)) is None


def test_a_prompt_beyond_the_window_is_refused_by_count_and_limit():
    text = WORDS * 200
    exact = tokens.count(text, model="gpt-6-luna").value
    reason = too_long(Task(text), offer(exact - 50))
    assert reason == (
        f"the prompt is too long: about {exact:,} tokens, and the context window of gpt-6-luna is {exact - 50:,}"
    )


def test_where_tokens_are_estimated_the_least_of_them_decides():
    text = WORDS * 200
    found = tokens.count(text, model="claude-haiku-5-5")
    assert found.low < found.value
    assert too_long(Task(text), offer(found.low, "claude-haiku-5-5")) is None
    assert too_long(Task(text), offer(found.low - 50, "claude-haiku-5-5")) is not None


def test_what_is_far_too_long_is_not_counted_to_its_end():
    reason = too_long(Task(WORDS * 100_000), offer(128_000))  # 6.8 MB; the first piece is enough
    about = int(reason.split("about ")[1].split(" ")[0].replace(",", ""))
    assert 1_300_000 < about < 1_700_000


@pytest.mark.parametrize(
    "task",
    [
        Task("short", system=WORDS * 200),
        Task([{"role": "user", "content": WORDS * 100}, {"role": "user", "content": ["a", WORDS * 100]}]),
        Task("short", files=[from_bytes(WORDS.encode() * 1000, "a.txt")]),
        Task([{"role": "user", "content": "short"}], files=[from_bytes(WORDS.encode() * 1000, "a.txt")]),
    ],
    ids=["system", "messages", "file", "messages and file"],
)
def test_every_text_counts(task):
    assert too_long(task, offer(1_000)) is not None
    assert too_long(task, offer(1_000_000)) is None


def test_images_do_not_count():
    image = from_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100_000))
    assert too_long(Task("x", files=[image]), offer(100)) is None
    assert too_long(Task([{"role": "user", "content": ["x", image]}]), offer(100)) is None


def test_an_unknown_window_refuses_nothing():
    assert too_long(Task(WORDS * 10_000), offer(None)) is None


@given(st.text(max_size=400), st.integers(1, 400))
def test_no_text_is_refused_that_has_fewer_tokens_than_the_window(text, window):
    refused = too_long(Task(text), offer(window))
    if tokens.count(text, model="gpt-6-luna").value <= window:
        assert refused is None


def test_a_route_loses_the_offers_that_cannot_take_the_prompt_and_says_why():
    route = Router([platform("small", 500), platform("large", 100_000)], PriceList()).route(Task("x"))
    task = Task(WORDS * 200)
    found = fitting(route, task)
    assert [o.platform.name for o in found.offers] == ["large"]
    assert found.excluded["small"].startswith("the prompt is too long: about ")
    assert fitting(route, Task("x")) is route
    assert [o.platform.name for o in route.offers] == ["small", "large"]  # it is shared with other tasks


def test_where_no_offer_is_left_the_reasons_say_so():
    route = Router([platform("small", 500)], PriceList()).route(Task("x"))
    found = fitting(route, Task(WORDS * 200))
    assert found.offers == ()
    assert found.why_none().startswith("small: the prompt is too long")


def test_the_catalogue_knows_the_window_where_the_platform_does_not():
    def window(model, told=None, **more):
        (found,) = Router([platform("p", told, model)], PriceList(), **more).route(Task("x")).offers
        return found.context_tokens

    assert window("gpt-6-luna") == 1_050_000
    assert window("gpt-6-luna", told=10) == 10
    assert window("nobody-knows") is None
    own = with_settings({"models": {"nobody-*": {"context_tokens": 77}}})
    assert window("nobody-knows", catalogue=own) == 77


def test_an_ordinary_prompt_loads_no_tokenizer():
    script = """
        import sys
        from orchestrai import Task
        from orchestrai.pricing import PriceList
        from orchestrai.routing.context import fitting
        from orchestrai.routing.offers import Router
        from orchestrai.testing import ScriptedPlatform

        router = Router([ScriptedPlatform("p", model="gpt-6-luna")], PriceList())
        for words in (10, 10_000):
            task = Task("word " * words)
            assert fitting(router.route(task), task) is router.route(task)
        print("tiktoken" in sys.modules)
        task = Task("word " * 2_000_000)
        assert not fitting(router.route(task), task).offers
        print("tiktoken" in sys.modules)
    """
    assert finished(script).split() == ["False", "True"]
