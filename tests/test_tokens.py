"""Tokens are counted on this machine: exactly where a tokenizer is known, with an honest interval elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import math
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import orchestrai
from orchestrai import attachments, tokens
from orchestrai.messages import Message
from orchestrai.tokens import TokenCount, count, prompt_tokens, quick

DATA = resources.files("orchestrai") / "data"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
NO_NETWORK = """
import sys
def refuse(event, args):
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.")):
        raise RuntimeError("network: " + event)
sys.addaudithook(refuse)
"""


def run_python(code: str, *, folder: Path | None = None) -> str:
    """Run a program in a fresh interpreter that imports the package from `folder`."""
    root = folder or Path(orchestrai.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- exact counts


@pytest.mark.parametrize(
    ("model", "ids"),
    [("gpt-4o", [83, 8251, 2488, 382, 2212, 0]), ("gpt-4", [83, 1609, 5963, 374, 2294, 0])],
)
def test_the_bundled_ranks_give_the_published_ids(model, ids):
    name = tokens._openai_encoding(model)
    assert tokens._encoding(name).encode_ordinary("tiktoken is great!") == ids
    assert count("tiktoken is great!", model=model) == TokenCount(6, 6, 6, "exact")


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_the_rank_files_are_byte_for_byte_what_tiktoken_expects(name):
    import tiktoken_ext.openai_public as public

    packed = (DATA / f"{name}.tiktoken.gz").read_bytes()
    digest = hashlib.sha256(gzip.decompress(packed)).hexdigest()
    assert digest in getattr(public, name).__code__.co_consts
    notice = (DATA / "NOTICE.md").read_text(encoding="utf-8")
    assert digest in notice
    assert hashlib.sha256(packed).hexdigest() in notice
    assert f"{len(packed):,}" in notice


def test_the_rank_files_are_small_enough_to_ship():
    assert sum(len((DATA / f"{n}.tiktoken.gz").read_bytes()) for n in ("o200k_base", "cl100k_base")) <= 2_600_000


@pytest.mark.parametrize(
    "model",
    ["gpt-4o", "gpt-4.1-mini", "gpt-5", "gpt-6-sol", "o3", "o4-mini", "openai/gpt-oss-120b", "gpt-3.5-turbo"],
)
def test_openai_models_are_counted_exactly(model):
    assert count("Explain WAL in one line.", model=model).method == "exact"


def test_an_exact_count_is_what_tiktoken_counts():
    text = "def f(x):\n    return x ** 2  # Überraschung 漢字 🙂\r\n\n" * 50
    assert count(text, model="gpt-4o").value == len(tokens._encoding("o200k_base").encode_ordinary(text))
    assert count(text, model="gpt-4").value == len(tokens._encoding("cl100k_base").encode_ordinary(text))


def test_a_special_token_in_a_prompt_is_plain_text():
    assert count("<|endoftext|><|fim_prefix|>", model="gpt-4o").value > 2


def test_a_lone_surrogate_is_counted_and_not_an_error():
    assert count("a\ud800b", model="gpt-4o").value > 0
    assert quick("\ud800") == 1


def test_no_text_is_no_tokens():
    for model in ("gpt-4o", "claude-opus-4-7", "gemini-2.5-pro", "x", None):
        assert (count("", model=model).value, count("", model=model).high) == (0, 0)
    assert quick("") == 0


# --- texts of any length


@pytest.mark.parametrize("filler", [" ", "\t", "\u3000", "\n", "a", "^", "漢"])
def test_a_million_equal_characters_do_not_overflow_the_tokenizer(filler):
    counted = count(filler * 1_000_000, model="gpt-4o")
    assert 0 < counted.low <= counted.value <= counted.high
    assert counted.high - counted.low <= 2 * 4 * 10
    assert counted.method == "estimated"


def test_control_the_same_text_in_one_piece_does_overflow():
    code = (
        "from orchestrai import tokens\n"
        "try:\n    tokens._encoding('o200k_base').encode_ordinary(' ' * 1_000_000)\n"
        "except BaseException as error:\n    print(isinstance(error, Exception), type(error).__name__)\n"
    )
    assert run_python(code) == "False PanicException"


WORDS = st.lists(
    st.text("abcXYZ019 \t\n\r.,;:/'\"-()é漢 ", min_size=1, max_size=12)
    | st.sampled_from([" the", " don't", "\n\n", "\nDef", ";\n/", " 's", "  ", " I'll", "e.g.\n"]),
    min_size=1,
    max_size=60,
).map("".join)


@settings(max_examples=300)
@given(text=WORDS, name=st.sampled_from(["o200k_base", "cl100k_base"]))
def test_a_clean_cut_changes_no_token(text, name):
    encode = tokens._encoding(name).encode_ordinary
    for cut in tokens._CLEAN_CUT.finditer(text):
        assert encode(text[: cut.start()]) + encode(text[cut.start() :]) == encode(text)


@given(text=WORDS, step=st.integers(10, 100))
def test_pieces_are_the_text_and_none_is_too_long(text, step):
    pieces = [piece for piece, _ in tokens._chunks(text, step)]
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= step for piece in pieces)


def test_a_long_text_of_words_is_still_exact():
    text = "The quick brown fox jumps over the lazy dog.\n" * 6_000
    counted = count(text, model="gpt-4o")
    assert counted.method == "exact"
    assert counted.value == len(tokens._encoding("o200k_base").encode_ordinary(text))


# --- offline, lazy, shared


def test_counting_never_touches_the_network(tmp_path):
    code = (
        NO_NETWORK + f"import os; os.environ['TIKTOKEN_CACHE_DIR'] = {str(tmp_path)!r}\n"
        "from orchestrai.tokens import count\n"
        "print([count('tiktoken is great!', model=m).method for m in ('gpt-4o', 'gpt-4', 'claude-opus-4-7', 'x')])\n"
        "print('requests' in sys.modules, 'urllib.request' in sys.modules)\n"
    )
    assert run_python(code).splitlines() == ["['exact', 'exact', 'estimated', 'estimated']", "False False"]
    assert list(tmp_path.iterdir()) == []


def test_control_tiktoken_alone_would_touch_the_network(tmp_path):
    code = (
        NO_NETWORK + f"import os; os.environ['TIKTOKEN_CACHE_DIR'] = {str(tmp_path)!r}\n"
        "import tiktoken\n"
        "try:\n    tiktoken.get_encoding('o200k_base')\nexcept Exception as error:\n    print('network' in repr(error))\n"
    )
    assert run_python(code) == "True"


def test_importing_the_module_loads_no_tokenizer():
    code = "import orchestrai.tokens as t; t.quick('abc'); print([m for m in sys.modules if 'tiktoken' in m])"
    assert run_python(code) == "[]"


def test_threads_that_count_first_share_one_encoding():
    code = (
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "from orchestrai import tokens\n"
        "with Pool(8) as pool:\n"
        "    found = set(pool.map(lambda i: id(tokens._encoding('o200k_base')), range(32)))\n"
        "print(len(found))\n"
    )
    assert run_python(code) == "1"


def test_an_encoding_that_tiktoken_already_holds_is_not_loaded_twice():
    code = (
        "import tiktoken\nfrom orchestrai import tokens\n"
        "mine = tokens._load('cl100k_base')\n"
        "tiktoken.registry.ENCODINGS['cl100k_base'] = mine\n"
        "print(tokens._load('cl100k_base') is mine)\n"
    )
    assert run_python(code) == "True"


def test_tiktoken_itself_is_left_as_it_was():
    code = (
        "import tiktoken, tiktoken_ext.openai_public as public\n"
        "before = dict(vars(public)), dict(tiktoken.registry.ENCODINGS)\n"
        "from orchestrai import tokens\n"
        "tokens.count('x', model='gpt-4o')\n"
        "print((dict(vars(public)), dict(tiktoken.registry.ENCODINGS)) == before)\n"
    )
    assert run_python(code) == "True"


@pytest.mark.parametrize("damage", ["missing", "other ranks", "no gzip"])
def test_damaged_ranks_give_a_guess_that_says_so(tmp_path, damage):
    shutil.copytree(Path(orchestrai.__file__).parent, tmp_path / "orchestrai")
    ranks = tmp_path / "orchestrai" / "data" / "o200k_base.tiktoken.gz"
    if damage == "missing":
        ranks.unlink()
    else:
        ranks.write_bytes(gzip.compress(b"IQ== 0\n") if damage == "other ranks" else b"\0" * 100)
    code = (
        "import warnings\n"
        "from orchestrai.tokens import count\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    a, b = count('one two three four', model='gpt-4o'), count('x', model='gpt-4o')\n"
        "print(a.method, a.low, a.value, a.high, b.method, len(seen), 'Reinstall' in str(seen[0].message))\n"
    )
    assert run_python(code, folder=tmp_path) == "heuristic 3 6 15 heuristic 1 True"


# --- families without a public tokenizer

ENGLISH = "The ledger is the record of every attempt that was made, and it is kept for as long as you want it. " * 5
FOREIGN = {
    "German": "Die Katze sitzt auf dem Dach und wartet, bis der Regen vorbei ist, denn sie mag das Wasser nicht. ",
    "French": "Le chat est assis sur le toit et il attend que la pluie cesse, car il ne supporte pas les orages. ",
    "Spanish": "El gato espera en el tejado y mira por la ventana para ver si los vecinos llegan con su comida. ",
    "Italian": "Il gatto aspetta sul tetto della casa che la pioggia finisca, e le rondini sono per lui un gioco. ",
    "Dutch": "De kat zit op het dak van het huis en wacht, want een kat houdt niet van regen en ook niet van wind. ",
    "Russian": "Кошка сидит на крыше и ждёт, когда закончится дождь. ",
    "Chinese": "猫坐在屋顶上等待雨停。",
    "Japanese": "猫は屋根の上で雨が止むのを待っています。",
}


@pytest.mark.parametrize("language", FOREIGN)
def test_text_of_another_language_uses_the_wider_factors(language):
    o200k = count(FOREIGN[language], model="gpt-4o").value
    counted = count(FOREIGN[language], model="claude-opus-4-7")
    assert counted == TokenCount(math.ceil(o200k * 1.7), math.floor(o200k * 1.1), math.ceil(o200k * 2.7), "estimated")


@pytest.mark.parametrize(
    "text",
    [ENGLISH, "import os\nfor x in range(10):\n    print(os.getcwd(), x)\n", '{"a": [1, 2, {"b": null}], "c": "d"}'],
)
def test_english_code_and_json_use_the_narrow_factors(text):
    o200k = count(text, model="gpt-4o").value
    counted = count(text, model="claude-sonnet-4-5-20250929")
    assert (counted.value, counted.low, counted.high) == (
        math.ceil(o200k * 1.12),
        math.floor(o200k * 1.03),
        math.ceil(o200k * 1.25),
    )


@pytest.mark.parametrize(
    ("model", "provider", "factor"),
    [
        ("claude-3-5-sonnet-20241022", None, 1.12),
        ("claude-sonnet-4-20250514", None, 1.12),
        ("claude-opus-4-6", None, 1.12),
        ("anthropic/claude-sonnet-4.5", None, 1.12),
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", "aws", 1.12),
        ("claude-opus-4-7", None, 1.5),
        ("claude-haiku-5-5", None, 1.5),
        ("claude-opus-5", None, 1.5),
        ("sonnet", "anthropic", 1.5),
        ("gemini-2.5-flash", None, 1.08),
        ("google/gemma-3-27b-it", None, 1.08),
        (None, "google", 1.08),
        ("llama-3.3-70b", "groq", 1.15),
        ("text-embedding-004", None, 1.15),
        ("text-davinci-003", "openai", 1.15),
        (None, None, 1.15),
    ],
)
def test_each_family_has_its_factor(model, provider, factor):
    o200k = count(ENGLISH, model="gpt-4o").value
    counted = count(ENGLISH, model=model, provider=provider)
    assert counted.value == math.ceil(o200k * factor)
    assert counted.low <= counted.value <= counted.high
    assert counted.method == "estimated"


# --- adding up, requests, and the fast guess

COUNTS = st.builds(
    lambda low, a, b, method: TokenCount(low + a, low, low + a + b, method),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(["exact", "estimated", "heuristic"]),
)


@given(a=COUNTS, b=COUNTS)
def test_a_sum_is_as_sure_as_its_least_sure_part(a, b):
    both = a + b
    assert both == b + a
    assert (both.value, both.low, both.high) == (a.value + b.value, a.low + b.low, a.high + b.high)
    order = ("exact", "estimated", "heuristic")
    assert order.index(both.method) == max(order.index(a.method), order.index(b.method))


def test_a_request_counts_what_frames_its_messages():
    messages = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))
    text = sum(count(m.text, model="gpt-4o").value for m in messages)
    counted = prompt_tokens(messages, model="gpt-4o")
    assert counted.value == text + 3 * 4
    assert counted.low < counted.value < counted.high
    assert counted.method == "estimated"
    with_system = prompt_tokens(messages, "Be brief.", model="gpt-4o")
    assert with_system.value == counted.value + 4 + count("Be brief.", model="gpt-4o").value


def test_a_message_of_claude_is_framed_by_eight_tokens():
    one = prompt_tokens((Message("user", "one"),), model="claude-opus-4-7")
    assert one.value == count("one", model="claude-opus-4-7").value + 8


@pytest.mark.parametrize(
    ("model", "value", "high"),
    [
        ("gpt-4o", 765, 3_779),
        ("gpt-4o-mini", 25_501, 48_169),
        ("claude-sonnet-4-5", 1_334, 1_600),
        ("claude-opus-4-7", 1_334, 4_784),
        ("gemini-3-pro-preview", 1_120, 2_240),
        ("unheard-of", 1_120, 4_784),
    ],
)
def test_an_image_counts_with_the_allowance_of_its_family(model, value, high):
    picture = attachments.from_bytes(PNG)
    without = prompt_tokens((Message("user", ("What is this?",)),), model=model)
    counted = prompt_tokens((Message("user", ("What is this?", picture)),), model=model)
    assert counted.value - without.value == value
    assert counted.high - without.high >= high
    assert counted.low > without.low


def test_images_and_files_are_counted_without_being_opened(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("a line of text\n" * 100)
    attached = attachments.from_path(path)
    path.unlink()
    counted = prompt_tokens((Message("user", ("Read this", attached)),), model="gpt-4o")
    assert counted.value >= 1_500 / 4
    assert counted.method == "heuristic"


def test_a_schema_is_part_of_the_prompt():
    schema = {"type": "object", "properties": {"kind": {"enum": ["bug", "billing"]}}}
    messages = (Message("user", "Kind?"),)
    assert (
        prompt_tokens(messages, model="gpt-4o", json_schema=schema).value
        > prompt_tokens(messages, model="gpt-4o").value
    )


@given(text=st.text(max_size=300), ratio=st.floats(0.1, 5))
def test_the_fast_guess_is_a_quarter_of_the_bytes_times_what_was_learned(text, ratio):
    size = len(text.encode("utf-8", "surrogatepass"))
    assert quick(text) == math.ceil(size / 4)
    assert abs(quick(text, ratio) - size * ratio / 4) < 1 + 1e-9
