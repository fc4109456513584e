"""SQL: anything may be asked, nothing changed, read or fetched, and no text of a name is ever code."""

from __future__ import annotations

import os
import random

import pytest
from history import Writer, orchestrator

from orchestrai import InvalidQuery

SCALE = float(os.environ.get("ORCHESTRAI_TEST_SCALE") or 0.1)

TABLES = ("attempts", "tasks", "batches", "chains", "prices", "quota", "v_daily", "v_savings", "v_price_tiers")
REFUSED = (
    "COPY attempts TO '{folder}/stolen.csv'",
    "ATTACH '{folder}/other.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "PRAGMA database_list",
    "CREATE TABLE mine (a INTEGER)",
    "DROP VIEW attempts",
    "DELETE FROM ledger.attempts",
    "INSERT INTO ledger.batches VALUES (1)",
    "WITH gone AS (DELETE FROM ledger.attempts RETURNING *) SELECT count(*) FROM gone",
    "SELECT 1; DROP VIEW attempts",
    "BEGIN; SELECT 1",
    "EXPORT DATABASE '{folder}/stolen'",
    "",
    "-- nothing",
)
READING = (
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_parquet('{folder}/*.parquet')",
    "SELECT * FROM '/etc/passwd.csv'",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM 'https://example.org/a.parquet'",
)
HOSTILE = (
    "a'b", 'a"b', "a;DROP TABLE attempts", "a/b", "a~b", "~0~1", "$.a", "$[0]", "*", "a.b", "[0]", "", " ", "\n", "\x00",
    "\x1b[31m", "null", "true", "1", "=1+1", "@x", "<b>x</b>", "${x}", "%{y}", "{}", "\\", "\\u0000", "ü", "\u202e", "🙂",
)  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_every_documented_table_can_be_asked(orch, table):
    assert len(orch.costs.sql(f"SELECT * FROM {table}").columns) > 2


def test_parameters_are_values_by_place_or_by_name(orch):
    by_place = orch.costs.sql("SELECT count(*) AS n FROM attempts WHERE platform = ?", ["cash"])
    by_name = orch.costs.sql("SELECT count(*) AS n FROM attempts WHERE platform = $name", {"name": "cash"})
    assert by_place["n"][0] == by_name["n"][0] > 0
    assert orch.costs.sql("SELECT ? AS x", ["'; DROP VIEW attempts; --"])["x"][0] == "'; DROP VIEW attempts; --"


@pytest.mark.parametrize("query", REFUSED)
def test_what_is_not_one_select_is_refused_and_changes_nothing(orch, tmp_path, query):
    with pytest.raises(InvalidQuery, match=r"orch\.costs\.sql takes one SELECT"):
        orch.costs.sql(query.format(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert orch.costs.sql("SELECT count(*) AS n FROM attempts")["n"][0] > 0


@pytest.mark.parametrize("query", READING)
def test_no_file_is_read(orch, query):
    with pytest.raises(InvalidQuery, match=r"(?s)disabled by configuration.*takes one SELECT"):
        orch.costs.sql(query.format(folder=orch.ledger_path.parent / "segments"))


def test_a_variable_of_the_caller_is_no_table(orch):
    import pandas as pd

    secret = pd.DataFrame({"key": ["sk-1"]})
    with pytest.raises(InvalidQuery, match="secret does not exist"):
        orch.costs.sql("SELECT * FROM secret")
    assert len(secret) == 1


@pytest.mark.parametrize("query", ["SELECT nope FROM attempts", "SELEC 1", "SELECT * FROM tusks", "SELECT 'a' :: INT"])
def test_an_error_shows_its_position(orch, query):
    with pytest.raises(InvalidQuery, match=r"(?s)LINE 1: .*\^"):
        orch.costs.sql(query)


@pytest.mark.parametrize("query", [5, None, "SELECT '\ud800'"])
def test_what_is_no_text_is_no_query(orch, query):
    with pytest.raises(InvalidQuery, match="A query is a text, not"):
        orch.costs.sql(query)


def test_a_pivot_names_its_values(orch):
    pivot = "PIVOT attempts ON platform {} USING sum(cost) GROUP BY day"
    assert orch.costs.sql(pivot.format("IN ('cash', 'plan')")).columns.tolist() == ["day", "cash", "plan"]
    with pytest.raises(InvalidQuery, match="A PIVOT names its values"):
        orch.costs.sql(pivot.format(""))


def test_describe_show_and_values_are_questions_too(orch):
    assert "platform" in orch.costs.sql("DESCRIBE attempts")["column_name"].tolist()
    assert "v_savings" in orch.costs.sql("SHOW TABLES")["name"].tolist()
    assert orch.costs.sql("SELECT 1 AS a, 2 AS a").columns.tolist() == ["a", "a_1"]
    assert orch.costs.sql("SELECT sum(seq) AS n FROM attempts")["n"].dtype == "Int64"
    assert orch.costs.sql("SELECT 2 :: HUGEINT ** 80 AS n")["n"][0] == 2**80


def test_hostile_tags_and_chains_are_found_by_their_very_names(tmp_path):
    chance = random.Random(3)
    letters = "".join(HOSTILE)
    count = max(len(HOSTILE), round(2_000 * SCALE))
    names = [
        *HOSTILE,
        *("".join(chance.choices(letters, k=chance.randint(1, 12))) for _ in range(count - len(HOSTILE))),
    ]
    names = list(dict.fromkeys(names))
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    batch = writer.batch()
    for i, name in enumerate(names):
        send = writer.send(batch, tags={name: f"value {i}", "other": "x"}, chain_id=name)
        writer.write(send, writer.end(send, cost=i + 1, model_used=name))
    writer.close()
    with orchestrator(tmp_path) as orch:
        for i, name in enumerate(names):
            assert orch.costs.by_tag(name)["value"].tolist() == [f"value {i}"], repr(name)
        assert orch.costs.by_tag("no such tag").empty
        assert set(orch.costs.by_chain()["chain_id"]) == set(names)
        assert set(orch.costs.by_model()["model"]) == set(names)
        for name in names[: len(HOSTILE)]:
            assert len(orch.costs.lineage(name)) == 1, repr(name)
