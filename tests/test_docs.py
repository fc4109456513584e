"""The documentation: generated pages are fresh, links lead somewhere, and what it shows exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
import typer

from orchestrai import Orchestrator
from orchestrai.cli.app import app
from orchestrai.settings import load
from orchestrai.testing import ScriptedPlatform

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`(?:\$ )?(orchestrai [a-z][^`]*)`")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text()) if language in languages]


# --- generated pages -------------------------------------------------------------------------------------------------


@pytest.fixture
def generate(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(module.REFERENCE, tmp_path / "reference")
    monkeypatch.setattr(module, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    return module


def test_generated_pages_say_what_the_program_says(generate, capsys):
    assert generate.main() == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("page", "old", "new"), [("prices.md", "0.25", "0.26"), ("command_line_help.md", "--yes", "--no")]
)
def test_a_stale_page_is_named(generate, capsys, page, old, new):
    changed = generate.REFERENCE / page
    assert old in changed.read_text()
    changed.write_text(changed.read_text().replace(old, new, 1))
    assert generate.main() == 1
    assert page in capsys.readouterr().err


def test_another_version_of_the_price_list_with_the_same_prices_is_no_news(generate):
    changed = generate.REFERENCE / "prices.md"
    changed.write_text(re.sub(r"genai-prices [\d.]+ and", "genai-prices 0.1.9 and", changed.read_text()))
    assert generate.main() == 0


def test_every_page_and_notebook_has_its_place_in_the_site_and_on_the_front_page():
    site, front = ((ROOT / path).read_text() for path in (".ci/mkdocs.yml", "docs/README.md"))
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    notebooks = [f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert [page for page in pages + notebooks if f"- {page}" not in site and page != "README.md"] == []
    assert [page for page in pages + notebooks if page not in front and page != "README.md"] == []


# --- links -----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and the site give to the headings of a page."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    return broken


@every_page
def test_every_link_and_anchor_leads_somewhere(page):
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_or_anchor_is_found():
    text = "[a](nowhere.md) [b](docs/README.md#nowhere) [c](#nowhere) [d](docs/README.md) [e](https://example.org)"
    assert broken_links(ROOT / "README.md", text) == ["nowhere.md", "docs/README.md#nowhere", "#nowhere"]


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(tmp_path):
    """What the names of the examples stand for: real objects."""
    with Orchestrator(tmp_path / "project", platforms=[ScriptedPlatform()]) as orch:
        chain = orch.chain("report")
        result = orch.run_sync("a", chain="report")
        batch = orch.batch_sync(["b"], progress="off")
        handle = orch.start(["c"], progress="off")
        handle.wait()
        yield {
            "orch": orch,
            "chain": chain,
            "plan": orch.plan(["d"]),
            "r": result,
            "result": result,
            "res": batch,
            "handle": handle,
            "h": handle,
        }


def missing_names(code: str, shown: dict[str, object]) -> list[str]:
    """Return the imports, attributes and arguments of an example that do not exist."""
    tree = compile(code, "<example>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    known = dict(shown)
    missing = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("orchestrai"):
            module = importlib.import_module(node.module)
            missing += [alias.name for alias in node.names if not hasattr(module, alias.name)]
            known |= {(a.asname or a.name): getattr(module, a.name) for a in node.names if hasattr(module, a.name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _value(node.value, known) is not None and _value(node, known) is None:
            missing.append(ast.unparse(node))
        if isinstance(node, ast.Call) and callable(called := _value(node.func, known)):
            missing += _unknown_arguments(node, called)
    return missing


def _value(node: ast.expr, known: dict[str, object]) -> object:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := _value(node.value, known)) is not None:
        if isinstance(owner, Orchestrator) and node.attr in {"last_plan", "last_batch"}:
            return known["plan" if node.attr == "last_plan" else "res"]
        return getattr(owner, node.attr, Ellipsis if hasattr(owner, node.attr) else None)
    return None


def _unknown_arguments(call: ast.Call, called: object) -> list[str]:
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):
        return []
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    return [f"{ast.unparse(call.func)}({key.arg}=)" for key in call.keywords if key.arg and key.arg not in parameters]


@every_page
def test_every_example_compiles_and_every_name_in_it_exists(page, shown):
    assert [name for code in blocks(page, "python") for name in missing_names(code, shown)] == []


def test_a_name_that_does_not_exist_is_found(shown):
    code = "from orchestrai import Nothing\nawait orch.nothing()\norch.costs.nothing()\nawait orch.batch([], nothing=1)"
    found = ["Nothing", "orch.nothing", "orch.costs.nothing", "orch.batch(nothing=)"]
    assert sorted(missing_names(code, shown)) == sorted(found)
    with pytest.raises(SyntaxError):
        missing_names("await (", shown)


# --- settings --------------------------------------------------------------------------------------------------------


@every_page
def test_every_settings_file_can_be_read(page, tmp_path):
    for text in blocks(page, "toml"):
        tables = tomllib.loads(text)
        name = "pyproject.toml" if "tool" in tables or "project" in tables else "orchestrai.toml"
        (tmp_path / name).write_text(text)
        load(tmp_path, None)
        (tmp_path / name).unlink()


# --- commands --------------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[list[str]]:
    """Return the words of every `orchestrai` command that a page shows."""
    text = page.read_text()
    lines = [line for code in blocks(page, "console", "bash") for line in code.replace("\\\n", " ").splitlines()]
    lines += [" ".join(found.split()) for found in INLINE.findall(FENCE.sub("", text))]
    found = []
    for line in lines:
        words = shlex.split(line.removeprefix("$ ").replace("…", "_"), comments=True)
        while "orchestrai" in words:
            words = words[words.index("orchestrai") + 1 :]
            ends = (index for index, word in enumerate(words) if word in {"|", "&&", ">", "2>", ";"})
            found.append(words[: next(ends, len(words))])
    return found


def unknown_words(words: list[str]) -> list[str]:
    """Return the commands and options among the words of a command that do not exist."""
    command = typer.main.get_command(app)
    while words and (inner := getattr(command, "commands", None)):
        if words[0].startswith("-"):
            break
        if words[0] not in inner:
            return words[:1]
        command, words = inner[words[0]], words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options |= {"--help", "-h"}
    return [word for word in words if word.startswith("-") and word != "-" and word.partition("=")[0] not in options]


@every_page
def test_every_command_shown_exists_with_its_options(page):
    assert [word for words in commands(page) for word in unknown_words(words)] == []


def test_a_command_or_option_that_does_not_exist_is_found():
    assert unknown_words(["bach", "-i", "a.csv"]) == ["bach"]
    assert unknown_words(["batch", "-i", "a.csv", "--promt", "x", "--yes"]) == ["--promt"]
    assert unknown_words(["model", "fetch", "--format=json"]) == []


def test_the_pages_show_commands_and_examples_at_all():
    assert sum(len(commands(page)) for page in PAGES) > 20
    assert sum(len(blocks(page, "python")) for page in PAGES) > 8
