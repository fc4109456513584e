"""Exports: what is written is what was asked, exact, and no cell of it runs in a spreadsheet."""

from __future__ import annotations

import csv
from decimal import Decimal

import pandas as pd
import pytest
from history import Writer, orchestrator
from test_sql import HOSTILE

from orchestrai import InvalidFile, InvalidInput

FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "=HYPERLINK('http://evil.example')",
    "=cmd|' /C calc'!A0",
)


def cells(path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Return an orchestrator whose ledger has a batch, a chain, a tag and a model of every hostile name."""
    folder = tmp_path_factory.mktemp("named")
    writer = Writer(folder / ".orchestrai")
    writer.offer(1, "openai", "paid")
    for i, name in enumerate((*FORMULAS, *HOSTILE)):
        send = writer.send(writer.batch(name=name), tags={"team": name}, chain_id=name)
        writer.write(send, writer.end(send, cost=i + 1, model_used=name))
    writer.close()
    with orchestrator(folder) as made:
        yield made


@pytest.mark.parametrize("question", ["by_batch", "by_chain", "by_model", "by_tag", "top"])
def test_no_cell_and_no_title_of_a_csv_is_a_formula(named, question, tmp_path):
    frame = getattr(named.costs, question)(*(["team"] if question == "by_tag" else []))
    rows = cells(named.costs.export(frame, tmp_path / "out.csv"))
    assert len(rows) == len(frame) + 1
    for cell in (cell for row in rows for cell in row):
        assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
        assert (
            not cell.startswith("-") or cell.lstrip("-").replace(".", "").replace("e", "").replace("-", "").isdigit()
        ), cell
    assert any(cell.startswith("'=") for row in rows for cell in row) or question == "top"


def test_a_csv_has_every_digit_of_exact_money(named, tmp_path):
    frame = named.costs.by_model(money="decimal")
    title, *rows = cells(named.costs.export(frame, tmp_path / "out.csv"))
    written = [Decimal(row[title.index("cost")]) for row in rows]
    assert written == frame["cost"].tolist()
    assert all("E" not in row[title.index("cost")] for row in rows)


def test_a_parquet_file_has_the_same_rows_and_money_stays_decimal(named, tmp_path):
    frame = named.costs.by_batch(money="decimal")
    back = pd.read_parquet(named.costs.export(frame, tmp_path / "out.parquet"))
    assert back["batch"].tolist() == frame["batch"].tolist()
    assert back["cost"].tolist() == frame["cost"].tolist()
    assert isinstance(back["cost"][0], Decimal)
    assert back["created_at"].dtype == frame["created_at"].dtype


def test_a_figure_gives_its_frame_or_its_page(named, tmp_path):
    figure = named.costs.plot.by_model()
    assert len(cells(named.costs.export(figure, tmp_path / "out.csv"))) == len(figure.frame) + 1
    page = named.costs.export(figure, tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.count("<html>") == 1
    assert "Plotly.newPlot" in page


def test_what_cannot_be_written_is_refused_and_the_old_file_stays(named, tmp_path):
    frame = named.costs.by_day()
    with pytest.raises(InvalidFile, match=r"use one of \.csv, \.parquet, \.html"):
        named.costs.export(frame, tmp_path / "out.xlsx")
    with pytest.raises(InvalidInput, match="Only a figure"):
        named.costs.export(frame, tmp_path / "out.html")
    with pytest.raises(InvalidInput, match="A DataFrame is written to"):
        named.costs.export("text", tmp_path / "out.csv")
    with pytest.raises(InvalidFile, match="cannot be written"):
        named.costs.export(frame, tmp_path / "nowhere" / "out.csv")
    kept = named.costs.export(frame, tmp_path / "kept.csv")
    before = kept.read_bytes()
    with pytest.raises(AttributeError):
        named.costs.export(type("Broken", (), {"columns": [], "index": None})(), kept)
    assert kept.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept.csv"]
