"""Bad input: a clear error before anything is sent, or the right result; nothing is lost either way."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import shutil
import sqlite3
import threading
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from loopback import finished, openai, orchestrator, upper

from orchestrai import (
    InvalidInput,
    InvalidPrompt,
    InvalidSchema,
    InvalidSettings,
    InvalidTemplate,
    LedgerDamaged,
    LedgerTooNew,
    LedgerUnusable,
    NoPlatform,
    OrchestraiError,
    Orchestrator,
    Task,
    TaskFailed,
)
from orchestrai.testing import ProviderServer, ScriptedPlatform
from orchestrai.testing.answers import answer_to


@pytest.fixture
def server():
    with ProviderServer() as server:
        yield server


@pytest.fixture
def orch(tmp_path, server):
    with orchestrator(tmp_path, openai(server)) as orch:
        yield orch


WAYS = {
    "batch": lambda orch, *a, **k: asyncio.run(orch.batch(*a, **k)),
    "batch_sync": lambda orch, *a, **k: orch.batch_sync(*a, **k),
    "start": lambda orch, *a, **k: orch.start(*a, **k).wait(),
    "as_completed": lambda orch, *a, **k: asyncio.run(_all(orch.as_completed(*a, **k))),
}


async def _all(results):
    return sorted([r async for r in results], key=lambda r: r.index)


@pytest.fixture(params=WAYS)
def batch(request, orch):
    return lambda *a, **k: WAYS[request.param](orch, *a, **k)


# --- what is not there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "empty",
    [[], (), {}.keys(), iter([]), pd.DataFrame(), pd.DataFrame({"prompt": []}), pd.Series([], dtype=object)],
    ids=["list", "tuple", "keys", "iterator", "frame", "frame with a column", "series"],
)
def test_nothing_to_ask_is_an_empty_result(server, batch, empty):
    assert len(batch(empty)) == 0
    assert server.requests == []


def test_an_empty_batch_has_every_column_and_sum(orch):
    res = orch.batch_sync(pd.DataFrame({"q": []}), prompt="{q}", schema=Literal["a", "b"], into="kind")
    assert list(res.df.columns) == ["q", "kind", "kind_status", "kind_error"]
    assert (len(res), res.total_cost, res.success_rate, res.status) == (0, 0, 1, "finished")


@pytest.mark.parametrize("nothing", [None, math.nan, pd.NA, pd.NaT, np.float64("nan"), "", "  \n", []], ids=repr)
def test_a_prompt_that_is_missing_is_skipped_and_the_others_are_answered(server, batch, nothing):
    if isinstance(nothing, list):
        with pytest.raises(InvalidPrompt, match=r"row 1.*empty"):
            batch(["a", nothing, "c"])
        return
    res = list(batch(["a", nothing, "c"]))
    assert [r.status for r in res] == ["succeeded", "skipped", "succeeded"]
    assert res[1].error_class == "input"
    assert sorted(server.prompts) == ["a", "c"]


@pytest.mark.parametrize("nothing", [None, math.nan, "", " ", [], {}], ids=repr)
def test_a_single_prompt_that_is_missing_is_refused(orch, server, nothing):
    for call in (orch.run_sync, lambda prompt: asyncio.run(orch.run(prompt)), orch.stream):
        with pytest.raises(InvalidPrompt):
            call(nothing)
    assert server.requests == []


def test_a_missing_column_names_the_nearest(server, batch):
    frame = pd.DataFrame({"Order ID": [1], "text": ["a"]})
    with pytest.raises(InvalidTemplate, match="Did you mean 'Order ID'"):
        batch(frame, prompt="{OrderID}: {text}")
    with pytest.raises(InvalidTemplate, match=r"'prompt'.*Give prompt="):
        batch(frame)
    assert server.requests == []


@pytest.mark.parametrize("template", ["{text", "text}", "{}", "{{text}", "{text!r}}", "{te{xt}}"])
def test_a_template_that_is_not_closed_is_refused(server, batch, template):
    with pytest.raises(InvalidTemplate):
        batch(pd.DataFrame({"text": ["a"]}), prompt=template)
    assert server.requests == []


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        ("a prompt", "put it in a list"),
        (Task("a"), "put it in a list"),
        (b"bytes", "not bytes"),
        (7, "not int"),
        (None, "not NoneType"),
        ({"a": "b"}, "list"),
        ([7], "row 0"),
        ([["a"]], "message 0"),
        ([{"role": "user", "content": "a"}], "single message"),
        ([[{"role": "usr", "content": "a"}]], "Did you mean 'user'"),
        ([{"promt": "a"}], "Did you mean 'prompt'"),
        ([b"a"], "bytes"),
    ],
    ids=str,
)
def test_what_is_no_batch_is_explained(server, batch, wrong, cure):
    with pytest.raises(InvalidInput, match=cure):
        batch(wrong)
    assert server.requests == []


# --- texts -----------------------------------------------------------------------------------------------------------


def test_a_prompt_of_ten_megabytes_is_sent_and_kept_whole(tmp_path, server):
    prompt = "0123456789" * 1_000_000
    for reused in (False, True):
        with orchestrator(tmp_path, openai(server)) as orch:
            result = orch.run_sync(prompt)
            assert (result.output, result.reused) == (answer_to(prompt), reused)
    assert server.prompts == [prompt]


def test_a_lone_surrogate_is_refused_with_its_place_and_the_others_are_answered(server, batch):
    res = list(batch(["a", "half \ud83d an emoji", [{"role": "user", "content": "\udc00"}], "c"]))
    assert [r.status for r in res] == ["succeeded", "skipped", "skipped", "succeeded"]
    assert "position 5" in res[1].error
    assert sorted(server.prompts) == ["a", "c"]


def test_a_lone_surrogate_in_an_option_refuses_the_call(server, batch):
    for options in ({"system": "\ud800"}, {"tags": {"a": "\ud800"}}):
        with pytest.raises(InvalidInput, match="surrogate"):
            batch(["a"], **options)
    assert server.requests == []


@pytest.mark.parametrize(
    "text", ["\x00", "a\x00b", "🙂", "e\u0301", "\u202eabc", "{x}", "</answer>", "%s", "'; DROP--", "\r\n"]
)
def test_odd_texts_arrive_as_they_are(orch, server, text):
    prompt = f"[{text}]"
    assert orch.run_sync(prompt).output == answer_to(prompt)
    assert server.prompts == [prompt]
    assert orch.run_sync(prompt).reused
    assert orch.batch_sync([prompt]).df["prompt"][0] == prompt


def test_odd_answers_come_back_as_they_are_also_from_the_ledger(tmp_path):
    said = ["\x00", "<script>alert(1)</script>", "🙂" * 1000, "", "a\r\nb", "\u2028"]
    platform = ScriptedPlatform(replies=lambda r: said[int(r.messages[-1].text)])
    for _ in range(2):
        with orchestrator(tmp_path, platform) as orch:
            res = orch.batch_sync([str(i) for i in range(len(said))])
            assert res.outputs == said
            assert res._repr_mimebundle_()["text/plain"]
            assert "<script>" not in res._repr_mimebundle_()["text/html"]
    assert len(platform.requests) == len(said)


# --- cells and indexes -----------------------------------------------------------------------------------------------


def test_every_kind_of_cell_has_its_text_and_every_odd_index_its_rows(orch, server):
    cells = [
        1,
        2.5,
        True,
        "x",
        [1, "é"],
        {"k": None},
        dt.date(2026, 1, 2),
        np.int64(7),
        pd.Timestamp("2026-01-02"),
    ]
    frame = pd.DataFrame({"c": cells}, index=pd.Index([0, 0, None, "a", 1.5, (1, 2), 0, 7, "a"], dtype=object))
    res = orch.batch_sync(frame, prompt="{c}")
    assert [r.task.prompt for r in res] == [
        "1",
        "2.5",
        "True",
        "x",
        '[1, "é"]',
        '{"k": null}',
        "2026-01-02",
        "7",
        "2026-01-02T00:00:00",
    ]
    assert res.df.index.equals(frame.index)
    assert list(res.df["output"]) == [answer_to(r.task.prompt) for r in res]


def test_two_columns_of_one_name_are_refused_where_a_template_reads_them(orch, server):
    frame = pd.DataFrame([[1, 2, 3]], columns=["a", "a", "b"])
    with pytest.raises(InvalidTemplate, match="'a'"):
        orch.batch_sync(frame, prompt="{a}")
    assert server.requests == []
    assert orch.batch_sync(frame, prompt="{b}").df.shape == (1, 6)


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"concurrency": 0}, "concurrency is a whole number of at least 1, not 0"),
        ({"concurrency": -1}, "not -1"),
        ({"concurrency": 2.5}, "not 2.5"),
        ({"concurrency": "8"}, "not '8'"),
        ({"concurrency": True}, "not True"),
        ({"on_error": "stopp"}, "Did you mean 'stop'"),
        ({"on_error": "raise"}, "one of continue, stop"),
        ({"progress": "of"}, "Did you mean 'off'"),
        ({"missing": "drop"}, "missing is"),
        ({"name": 7}, "name is a string"),
        ({"into": ["a"]}, "into is a string"),
        ({"into": ""}, "into is a string that is not empty"),
        ({"name": "a\ud800"}, "name holds half of a character"),
        ({"model": "a\ud800"}, "model holds half of a character"),
        ({"chain": "a\ud800"}, "chain holds half of a character"),
        ({"samples": 0}, "samples"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": math.nan}, "timeout_s"),
        ({"timeout_s": math.inf}, "timeout_s"),
        ({"priority": 11}, "priority"),
        ({"effort": "hihg"}, "Did you mean 'high'"),
        ({"type": "test"}, "Did you mean 'testing'"),
        ({"system": 7}, "system"),
        ({"samples": True}, "samples"),
        ({"max_tokens": "100"}, "max_tokens"),
        ({"temperature": "0.1"}, "temperature"),
        ({"timeout_s": "5"}, "timeout_s"),
        ({"priority": "1"}, "priority"),
        ({"strict": "yes"}, "strict is True or False"),
        ({"reuse": "no"}, "reuse is True or False"),
        ({"mix": "no"}, "mix is True or False"),
        ({"extra": "x"}, "extra is a dict of dicts"),
        ({"extra": {"openai": 7}}, "extra is a dict of dicts"),
        ({"platform": 7}, "platform is one value or a list"),
        ({"files": 7}, "files is one value or a list"),
        ({"files": [7]}, "files are paths"),
        ({"tags": {1: "a"}}, "tags is a dict of labels"),
        ({"tags": {"a": ["b"]}}, "tags is a dict of labels"),
        ({"tags": ["a"]}, "tags"),
        ({"platform": "opnai"}, "Did you mean 'openai'"),
    ],
    ids=str,
)
def test_an_impossible_option_is_refused_before_anything_is_sent(server, batch, options, cure):
    with pytest.raises(InvalidInput, match=cure):
        batch(["a", "b"], **options)
    assert server.requests == []


def test_an_impossible_option_of_run_is_refused(orch, server):
    for call in (orch.run_sync, lambda *a, **k: asyncio.run(orch.run(*a, **k))):
        with pytest.raises(InvalidInput, match="one of raise, continue"):
            call("a", on_error="stop")
    assert server.requests == []


@pytest.mark.parametrize(
    "schema",
    [
        "a string",
        object,
        {"type": "objekt"},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "#/nowhere"},
        {"type": "object", "properties": {"a": float("nan")}},
        dict[str, type(threading.Lock())],
        {"enum": []},
    ],
    ids=lambda schema: str(schema)[:30],
)
def test_a_schema_that_is_none_is_refused(server, batch, schema):
    with pytest.raises(InvalidSchema):
        batch(["a"], schema=schema)
    assert server.requests == []


def test_a_schema_that_cannot_be_constrained_is_asked_in_words_and_validated(tmp_path):
    """A platform without constraints: the prompt carries the schema, and the answer is checked all the same."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(x+x+)+y$"}}, "required": ["a"]}
    with ProviderServer(replies='{"a": "xxy"}') as server:
        with orchestrator(tmp_path, openai(server, schema=False)) as orch:
            assert orch.run_sync("q", schema=schema).parsed == {"a": "xxy"}
        assert "response_format" not in server.requests[0].json
        assert "^(x+x+)+y$" in server.prompts[0]


def test_a_model_that_nobody_serves_is_a_failed_result_that_says_why(orch, server):
    res = orch.batch_sync(["a", Task("b", model="claude-opus-4")])
    assert [r.status for r in res] == ["succeeded", "failed"]
    assert res[1].error_class == "request"
    assert "openai: does not serve claude-opus-4" in res[1].error
    with pytest.raises(TaskFailed, match="does not serve"):
        orch.run_sync("a", model="claude-opus-4")
    assert server.prompts == ["a"]


# --- platforms -------------------------------------------------------------------------------------------------------


def test_an_address_where_nobody_listens_is_a_failed_result(tmp_path):
    with ProviderServer() as gone:
        url = gone.base_url
    with orchestrator(tmp_path, openai(gone, base_url=url), attempts=2) as orch:
        result = asyncio.run(orch.run("a", on_error="continue"))
        assert (result.error_class, result.attempts, result.cost) == ("connection", 2, 0)
        assert "127.0.0.1" in result.error


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://host/v1", "http://", "", "http://user:pw@host/v1", "http://h/v1?key=x"]
)
def test_what_is_no_address_is_refused(tmp_path, url, monkeypatch):
    settings = {"platforms": {"mine": {"kind": "openai", "base_url": url, "model": "m"}}}
    if url == "":
        monkeypatch.setenv("OPENAI_BASE_URL", "no address")
    with Orchestrator(tmp_path, settings=settings) as orch, pytest.raises(InvalidSettings, match="base_url"):
        orch.run_sync("a")


def test_with_no_platform_at_all_the_message_lists_what_helps(tmp_path):
    script = """
        import asyncio, sys
        from orchestrai import NoPlatform, Orchestrator

        with Orchestrator(sys.argv[1]) as orch:
            print(repr(orch))
            for call in (
                lambda: orch.run_sync("a"),
                lambda: asyncio.run(orch.batch(["a"])),
                lambda: orch.start(["a"]),
                lambda: orch.stream("a"),
                lambda: orch.run_sync("a", platform="openai"),
            ):
                try:
                    call()
                except NoPlatform as error:
                    print(error)
    """
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    out = finished(script, tmp_path, env=env)
    assert "<Orchestrator: no platform;" in out
    assert out.count("No platform can answer yet.") == 5
    for help_ in ("OPENAI_API_KEY", "orchestrai model fetch", "base_url="):
        assert out.count(help_) >= 5
    assert not (tmp_path / ".orchestrai" / "ledger.db").exists()


def test_a_hint_at_a_known_platform_that_is_not_there_says_what_to_do(tmp_path, server):
    settings = {"platforms": {"mine": {"kind": "openai", "base_url": server.base_url, "model": "m"}}}
    with Orchestrator(tmp_path, settings=settings) as orch:
        with pytest.raises(NoPlatform, match="OPENAI_API_KEY is not set"):
            orch.run_sync("a", platform="openai")
        with pytest.raises(InvalidInput, match="Did you mean 'mine'"):
            orch.run_sync("a", platform="mein")
    assert server.requests == []


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"atempts": 3}, "Did you mean 'attempts'"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": "many"}, "attempts"),
        ({"keep_text": True}, "Did you mean 'keep_texts'"),
        ({"progress": "offf"}, "Did you mean 'off'"),
        ({"concurrency": 0}, "concurrency"),
        ({"platforms": []}, "table"),
        ({"timeout_s": -1}, "timeout_s"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_when_the_orchestrator_is_made(tmp_path, settings, cure):
    with pytest.raises(InvalidSettings, match=cure):
        Orchestrator(tmp_path, settings=settings)
    assert not (tmp_path / ".orchestrai").exists()


@pytest.mark.parametrize(
    ("table", "cure"),
    [
        ({"kind": "opena"}, "Did you mean 'openai'"),
        ({"kind": "openai", "base_ur": "x"}, "Did you mean 'base_url'"),
        ({"kind": "openai", "api_key": "env:NOT_THERE"}, "NOT_THERE is not set"),
        ({"kind": "openai", "tier": "payed"}, "Did you mean 'paid'"),
    ],
    ids=str,
)
def test_a_wrong_platform_in_the_settings_is_refused_and_shown(tmp_path, table, cure):
    with Orchestrator(tmp_path, settings={"platforms": {"mine": table}}) as orch:
        with pytest.raises(InvalidSettings, match=cure):
            orch.run_sync("a")
        assert repr(orch) == "<Orchestrator: not ready (InvalidSettings)>"


def test_a_wrong_price_is_refused(tmp_path):
    with pytest.raises(OrchestraiError, match="input_mtok"):
        Orchestrator(tmp_path, settings={"prices": {"a/b": {"input_mtk": 1}}})


# --- the ledger's place ----------------------------------------------------------------------------------------------


async def _streamed(orch):
    return [piece async for piece in orch.stream("a")]  # it opens the ledger when it is iterated


def _refused(folder, kind, cure):
    platform = ScriptedPlatform()
    for call in (
        lambda orch: orch.run_sync("a"),
        lambda orch: orch.batch_sync(["a"]),
        lambda orch: asyncio.run(_all(orch.as_completed(["a"]))),
        lambda orch: asyncio.run(_streamed(orch)),
    ):
        with orchestrator(folder, platform) as orch, pytest.raises(kind, match=cure):
            call(orch)
    assert platform.requests == []


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / ".orchestrai").write_text("mine")
    _refused(tmp_path, LedgerUnusable, "cannot keep a ledger here")
    assert (tmp_path / ".orchestrai").read_text() == "mine"


def test_a_file_in_the_place_of_the_project_is_told(tmp_path):
    (tmp_path / "project").write_text("mine")
    _refused(tmp_path / "project", LedgerUnusable, "cannot keep a ledger here")


def _ledger(folder):
    with orchestrator(folder, upper) as orch:
        orch.batch_sync([f"{i}" for i in range(50)])
    return folder / ".orchestrai" / "ledger.db"


def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path):
    path = _ledger(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = path.read_bytes()
    _refused(tmp_path, LedgerTooNew, "Upgrade orchestrai")
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [0, 10, 4096, -4096])
def test_a_cut_ledger_is_told_and_left_alone(tmp_path, left):
    path = _ledger(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:left])
    _refused(tmp_path, LedgerDamaged, "ledger.db")
    assert path.read_bytes() == data[:left]
    path.write_bytes(data)  # a backup in its place
    with orchestrator(tmp_path, upper) as orch:
        assert orch.batch_sync([f"{i}" for i in range(50)]).reused_count == 50


def test_a_file_that_is_no_ledger_is_told_and_left_alone(tmp_path):
    path = _ledger(tmp_path)
    path.write_bytes(b"precious " * 10_000)
    _refused(tmp_path, LedgerDamaged, "ledger.db")
    assert path.read_bytes() == b"precious " * 10_000


def test_a_ledger_that_was_thrown_away_is_begun_anew(tmp_path):
    _ledger(tmp_path)
    shutil.rmtree(tmp_path / ".orchestrai")
    with orchestrator(tmp_path, upper) as orch:
        assert orch.batch_sync(["0"]).reused_count == 0


def test_a_prompt_beyond_the_context_window_is_refused_before_sending_and_says_by_how_much(tmp_path):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server, context_tokens=1_000)) as orch:
        result = orch.batch_sync(["short", "word " * 5_000], progress="off")
        assert len(server.requests) == 1
    assert [r.status for r in result] == ["succeeded", "failed"]
    assert result[1].error_class == "request"
    assert "too long: about 5," in result[1].error  # an estimate: the family of this model is not known
    assert "1,000" in result[1].error


def test_a_prompt_too_long_for_one_platform_goes_to_one_that_it_fits(tmp_path):
    with ProviderServer() as server:
        small = openai(server, name="small", context_tokens=1_000, tier="free")
        with orchestrator(tmp_path, small, openai(server, name="large", context_tokens=100_000)) as orch:
            result = orch.batch_sync(["short", "word " * 5_000], progress="off", confirm="never")
    assert [r.platform for r in result] == ["small", "large"]
