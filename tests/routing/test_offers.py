"""Offers: the cheapest platform that can take a task comes first, and each of the others has its reason."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai import InvalidInput, NoPlatform, Task
from orchestrai.attachments import from_bytes
from orchestrai.platforms import Capabilities
from orchestrai.pricing import PriceList
from orchestrai.routing.offers import Router
from orchestrai.testing import ScriptedPlatform

PNG = b"\x89PNG\r\n\x1a\n"


def platform(name, tier="free", cost=None, **more):
    price = {} if cost is None else {"input_mtok": cost, "output_mtok": cost}
    return ScriptedPlatform(name, tier=tier, price=price, model=more.pop("model", f"{name}-1"), **more)


def router(*platforms, **more):
    return Router(platforms, PriceList(), **more)


def order(found, task="q", **more):
    return [offer.platform.name for offer in found.route(task if isinstance(task, Task) else Task(task, **more)).offers]


PLATFORMS = [
    platform("free"),
    platform("local", "local"),
    platform("subscription", "subscription", cost=9),
    platform("cheap", "paid", cost=1),
    platform("dear", "paid", cost=2),
    platform("unpriced", "paid"),
]
BEST = ["free", "local", "subscription", "cheap", "dear", "unpriced"]


@given(st.permutations(PLATFORMS))
def test_free_and_local_come_before_subscriptions_and_those_before_paid_ones_by_price(given):
    found = order(router(*given))
    assert [name for name in found if name not in ("free", "local")] == BEST[2:]
    # Free and local cost the same: then the order of configuration counts.
    assert found[:2] == [p.name for p in given if p.name in ("free", "local")]


def test_an_unknown_price_is_never_taken_for_the_cheapest():
    assert order(router(platform("unknown", "paid"), platform("known", "paid", cost=1000))) == ["known", "unknown"]


@given(st.permutations(BEST).flatmap(lambda names: st.integers(1, 6).map(lambda n: names[:n])))
def test_hints_come_first_in_their_order_whatever_they_cost_and_the_rest_follows(hints):
    found = router(*PLATFORMS).route(Task("q", platform=tuple(hints)))
    names = [offer.platform.name for offer in found.offers]
    assert names == [*hints, *(name for name in BEST if name not in hints)]
    assert [offer.rank for offer in found.offers] == list(range(1, 7))
    assert [offer.reason for offer in found.offers] == ["hint"] * len(hints) + ["cheapest"] * (6 - len(hints))


def test_one_hint_may_be_a_string():
    assert order(router(*PLATFORMS), platform="dear")[0] == "dear"


def test_strict_leaves_only_the_hinted_and_says_why():
    found = router(*PLATFORMS).route(Task("q", platform=("dear", "free"), strict=True))
    assert [offer.platform.name for offer in found.offers] == ["dear", "free"]
    assert set(found.excluded) == {"local", "subscription", "cheap", "unpriced"}
    assert set(found.excluded.values()) == {"strict: another platform is named"}


def test_strict_without_a_platform_changes_nothing():
    assert order(router(*PLATFORMS), strict=True) == BEST


def test_a_model_is_a_requirement_and_never_replaced():
    a = platform("a", models=["m-1"])
    b = platform("b", "paid", cost=1, models=["m-2"])
    found = router(a, b).route(Task("q", model="m-2", platform="a"))
    assert [(offer.platform.name, offer.model) for offer in found.offers] == [("b", "m-2")]
    assert found.excluded == {"a": "does not serve m-2"}
    none = router(a, b).route(Task("q", model="m-3"))
    assert none.offers == ()
    assert none.why_none() == "a: does not serve m-3; b: does not serve m-3"


def test_a_platform_may_be_named_with_the_model():
    a, b = platform("a"), platform("b", "paid", cost=1)
    found = router(a, b).route(Task("q", model="b/some-model"))
    assert [(offer.platform.name, offer.model) for offer in found.offers] == [("b", "some-model")]
    assert found.excluded == {"a": "does not serve b/some-model"}


def test_a_platform_is_asked_for_its_own_model_though_its_name_begins_like_another_platform():
    groq = platform("groq", model="openai/gpt-oss-120b", models=[])
    openai = platform("openai", "paid", cost=1)
    found = router(groq, openai).route(Task("q", model="openai/gpt-oss-120b"))
    assert [(offer.platform.name, offer.model) for offer in found.offers] == [
        ("groq", "openai/gpt-oss-120b"),
        ("openai", "gpt-oss-120b"),
    ]


def test_a_slash_in_a_models_name_is_no_platform():
    found = router(platform("a")).route(Task("q", model="meta-llama/Llama-3"))
    assert [(offer.platform.name, offer.model) for offer in found.offers] == [("a", "meta-llama/Llama-3")]


def test_without_a_model_each_platform_is_asked_for_its_own():
    assert [offer.model for offer in router(*PLATFORMS).route(Task("q")).offers] == [f"{name}-1" for name in BEST]


@pytest.mark.parametrize(
    ("lacks", "task", "streaming", "reason"),
    [
        ({"images": False}, Task([{"role": "user", "content": ["x", from_bytes(PNG)]}]), False, "takes no images"),
        ({"images": False}, Task("x", files=[from_bytes(PNG)]), False, "takes no images"),
        ({"streaming": False}, Task("x"), True, "cannot stream"),
    ],
    ids=["image in a message", "image file", "stream"],
)
def test_what_a_platform_cannot_do_it_is_not_asked_for(lacks, task, streaming, reason):
    unable = platform("unable", capabilities=Capabilities(**lacks))
    able = platform("able", "paid", cost=1, capabilities=Capabilities(images=True))
    found = router(unable, able).route(task, streaming=streaming)
    assert [offer.platform.name for offer in found.offers] == ["able"]
    assert found.excluded == {"unable": reason}
    assert order(router(unable, able)) == ["unable", "able"]  # a plain task goes there


def test_a_model_that_is_known_to_see_nothing_gets_no_images_whatever_its_platform_takes():
    blind = platform("blind", model="openai/gpt-oss-120b", capabilities=Capabilities(images=True))
    able = platform("able", "paid", cost=1, capabilities=Capabilities(images=True))
    found = router(blind, able).route(Task("x", files=[from_bytes(PNG)]))
    assert [offer.platform.name for offer in found.offers] == ["able"]
    assert found.excluded == {"blind": "takes no images"}


def test_text_files_need_no_eyes():
    unable = platform("unable", capabilities=Capabilities(images=False))
    assert order(router(unable), Task("x", files=[from_bytes(b"text", "a.txt")])) == ["unable"]


WAITING = {"demo": "answers only when named"}


def test_what_waits_to_be_named_answers_only_then():
    demo = platform("demo", "local", demo=True)
    paid = platform("paid", "paid", cost=1)
    found = router(demo, paid, waiting=WAITING)
    assert order(found) == ["paid"]
    assert found.route(Task("q")).excluded == WAITING
    assert order(found, platform="demo") == ["demo", "paid"]
    assert order(found, platform=("paid", "demo")) == ["paid", "demo"]
    assert order(found, model="demo/demo-1") == ["demo"]
    assert order(found, model="demo-1") == ["paid"]  # no name of a platform: it stays waiting


def test_the_demo_model_comes_last_unless_it_is_hinted():
    demo = platform("demo", "local", demo=True)
    found = router(demo, *PLATFORMS)
    assert order(found) == [*BEST, "demo"]
    assert order(found, platform="demo") == ["demo", *BEST]


def test_an_unknown_hint_names_the_nearest_and_a_missing_platform_says_what_to_do():
    found = router(*PLATFORMS, missing={"openai": "OPENAI_API_KEY is not set"})
    with pytest.raises(InvalidInput, match=r"'subscripton' is not configured\. Did you mean 'subscription'\?"):
        order(found, platform="subscripton")
    with pytest.raises(NoPlatform, match="'openai' is not there: OPENAI_API_KEY is not set"):
        order(found, platform="openai")


def test_two_platforms_of_one_name_are_refused():
    with pytest.raises(InvalidInput, match="Two platforms are named 'a'"):
        router(platform("a"), platform("b"), platform("a"))


def test_alike_tasks_share_one_route():
    found = router(*PLATFORMS)
    alike = [Task("a", tags={"x": "y"}), Task("b", priority=1), Task("c", max_tokens=9)]
    assert len({id(found.route(task)) for task in alike}) == 1
    assert found.route(Task("a", platform="free")) is not found.route(Task("a"))


def test_the_only_platform_is_called_the_only_one():
    (offer,) = router(platform("a")).route(Task("q")).offers
    assert (offer.reason, offer.rank, offer.tier, offer.price) == ("only", 1, "free", None)


def test_without_any_platform_there_is_no_route():
    found = router().route(Task("q"))
    assert found.offers == ()
    assert found.why_none() == "no platform is configured"


@given(
    st.lists(st.sampled_from(PLATFORMS), unique_by=lambda p: p.name, max_size=6),
    st.lists(st.sampled_from(BEST), unique=True, max_size=3),
    st.booleans(),
    st.sampled_from([None, "free-1", "cheap/x", "other"]),
)
def test_every_platform_is_offered_or_excluded_with_a_reason(given, hints, strict, model):
    hints = tuple(name for name in hints if name in {p.name for p in given})
    found = router(*given).route(Task("q", platform=hints or None, strict=strict, model=model))
    offered = [offer.platform.name for offer in found.offers]
    assert sorted([*offered, *found.excluded]) == sorted(p.name for p in given)
    assert all(found.excluded.values())
    if strict and hints:
        assert set(offered) <= set(hints)
    for first, second in itertools.pairwise(found.offers):
        assert first.rank < second.rank


def test_what_may_not_be_asked_is_not_even_when_it_is_named():
    open_, barred = platform("open", "paid", cost=1), platform("barred")
    found = router(open_, barred, barred={"barred": "its plan may train on your data"})
    route = found.route(Task("q"))
    assert [offer.platform.name for offer in route.offers] == ["open"]
    assert route.excluded == {"barred": "its plan may train on your data"}
    assert order(found, model="barred/barred-1") == []
    with pytest.raises(NoPlatform, match="'barred' may not be asked: its plan may train on your data"):
        order(found, platform="barred")


def test_an_unknown_hint_may_be_near_to_a_platform_that_was_not_found():
    found = router(*PLATFORMS, missing={"claude_code": "claude is not on the PATH"})
    with pytest.raises(InvalidInput, match=r"'claud_code' is not configured\. Did you mean 'claude_code'\?"):
        order(found, platform="claud_code")


def test_of_several_hints_one_that_is_there_is_enough_and_the_others_say_why_not():
    found = router(*PLATFORMS, missing={"openai": "OPENAI_API_KEY is not set"}, barred={"local": "never"})
    route = found.route(Task("q", platform=("openai", "local", "dear"), strict=True))
    assert [offer.platform.name for offer in route.offers] == ["dear"]
    assert route.excluded["openai"] == "is not there: OPENAI_API_KEY is not set"
    with pytest.raises(NoPlatform, match=r"'openai' is not there: .*; platform 'local' may not be asked: never"):
        order(found, platform=("openai", "local"))
    with pytest.raises(InvalidInput, match="'dare' is not configured"):
        order(found, platform=("dear", "dare"))
