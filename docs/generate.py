"""Write the pages of the reference that come from the program itself; `--check` ends with 1 where one is stale.

python docs/generate.py [--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import typer

from orchestrai import list_prices
from orchestrai.cli.app import app
from orchestrai.limits.quota import Window
from orchestrai.platforms.catalogue import Catalogue, Plan, shipped
from orchestrai.pricing import Price, PriceList

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py: change the program, then run it again. -->\n"
PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google", "groq": "groq"}
CLASSES = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok", "output_reasoning_mtok")
WIDTH = 100  # characters of a help text
OTHER_MEDIA = re.compile(
    r"audio|realtime|transcribe|tts|image|search|:|\.ft-"
)  # priced by more than the tokens of a text

COMMANDS = """
# Commands

What each command prints with `--help`. What they do, their files and their JSON: [the command line](../how-to/command_line.md).
"""

PRICES = """
# Prices and plans

Read on {day} from genai-prices {version} and from [`catalogue.toml`](../../orchestrai/platforms/catalogue.toml). Prices
are dated: an attempt costs what held when it was made, and the ledger keeps that price with its source (the table `prices` of
`orch.costs.sql`). Where prices come from, and how to set your own: [prices](../explanation/prices.md).

Dollars per million tokens. An empty cell is charged as the class to which it belongs (input or output). *Context* is prompt
and answer together [tokens]; empty where no source gives it exactly.
"""


def main() -> int:
    """Write the pages, or say which are stale."""
    check = "--check" in sys.argv[1:]
    pages = {"command_line_help.md": command_line_help(), "prices.md": prices(_day_of_prices(check))}
    stale = [name for name, text in pages.items() if not _same(REFERENCE / name, text)]
    for name in stale:
        if check:
            print(f"docs/reference/{name} is stale: run python docs/generate.py", file=sys.stderr)
        else:
            (REFERENCE / name).write_text(pages[name], encoding="utf-8")
    return 1 if check and stale else 0


def command_line_help() -> str:
    """Return the help of every command, as it is printed."""
    parts = [NOTE + COMMANDS]
    program = typer.main.get_command(app)
    shown = {**program.context_settings, "terminal_width": WIDTH}
    for name, command in _commands("orchestrai", program):
        with command.make_context(name, [], resilient_parsing=True, **shown) as context:
            parts.append(f"## `{name}`\n\n```text\n{command.get_help(context).strip()}\n```\n")
    return "\n".join(parts)


def prices(day: date) -> str:
    """Return the list prices that hold on a day for the models of the catalogue, and the windows of the plans."""
    catalogue = shipped()
    parts = [NOTE + PRICES.format(day=day, version=list_prices.version())]
    for kind, provider in PROVIDERS.items():
        parts.extend(_price_table(catalogue, kind, provider, day))
    parts.append("## Default models\n\nThe model that is asked where neither a task nor the settings name one.\n")
    parts.append(
        _table(("platform", "model", "read"), ((d.id, f"`{d.model}`", d.checked) for d in catalogue.defaults.values()))
    )
    parts.append("## Plans\n\nWhat accounts may use. Empty where the provider publishes no number.\n")
    plans = (plan for plan in catalogue.plans.values())
    parts.append(_table(("plan", "who pays", "windows", "data", "holds", "source, read"), map(_plan_row, plans)))
    return "\n".join(parts)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _commands(f"{name} {word}", inner)


def _price_table(catalogue: Catalogue, kind: str, provider: str, day: date) -> Iterator[str]:
    listed = PriceList()
    at = datetime.combine(day, time(12), UTC)
    rows = []
    source = ""
    for model in _models(catalogue, kind, provider):
        price = listed.find(provider, model, at=at)
        if price is None:
            continue
        source = price.source_url or source
        facts = catalogue.model_facts(model)
        context = f"{facts.context_tokens:,}" if facts and facts.context_tokens else ""
        rows.append((f"`{model}`", *_units(price.unit_prices), _since(price), context))
        rows.extend((f"… above {above:,} input tokens", *_units(units), "", "") for above, units in price.tiers)
    yield f"## `{kind}`\n\n" + (f"Source: <{source}>\n" if source else "")
    heads = ("model", "input", "cache read", "cache write", "output", "reasoning", "since", "context")
    yield _table(heads, rows)


def _models(catalogue: Catalogue, kind: str, provider: str) -> list[str]:
    """Return the models on a provider's list that the catalogue knows, by a pattern or as a default."""
    default = catalogue.default_model(kind)
    makers = {"openai": ("gpt-", "o"), "anthropic": ("claude-",), "google": ("gemini-", "gemma-")}.get(provider, ("",))
    own = (
        model for model in list_prices.model_ids(provider) if model.startswith(makers) and not OTHER_MEDIA.search(model)
    )
    known = (m for m in own if any(fnmatchcase(m.rpartition("/")[2], pattern) for pattern in catalogue.models))
    return sorted({*known, *([default] if default else [])})


def _units(units: Any) -> list[str]:
    return ["" if units.get(name) is None else _amount(units[name]) for name in CLASSES]


def _amount(price: Decimal) -> str:
    text = f"{price.normalize():f}"
    return text if len(text.partition(".")[2]) >= 2 else f"{price:.2f}"


def _since(price: Price) -> str:
    return price.effective_from.isoformat() if price.effective_from else ""


def _plan_row(plan: Plan) -> tuple[object, ...]:
    holds = f"from {plan.valid_from}" * bool(plan.valid_from) + f" until {plan.valid_until}" * bool(plan.valid_until)
    windows = "; ".join(map(_window, plan.windows))
    return f"`{plan.id}`: {plan.title}", plan.tier, windows, plan.data_use, holds, f"{plan.source}, {plan.checked}"


def _window(window: Window) -> str:
    return f"{window.limit:,g} {window.unit} per {window.per}"


def _table(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    heads = tuple(heads)
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value if value is not None else "")).replace("|", "\\|")


def _day_of_prices(check: bool) -> date:
    """Return today; to check a page, the day that it was read on, as prices change by themselves."""
    page = REFERENCE / "prices.md"
    found = re.search(r"^Read on (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE) if page.exists() else None
    return date.fromisoformat(found[1]) if check and found else datetime.now(UTC).date()


def _same(page: Path, text: str) -> bool:
    """Return True when a page says the same; another version of the price list with the same prices is no news."""
    there = page.read_text(encoding="utf-8") if page.exists() else ""
    version = re.compile(r"genai-prices [\d.]+ and")
    return version.sub("", there) == version.sub("", text)


if __name__ == "__main__":
    sys.exit(main())
