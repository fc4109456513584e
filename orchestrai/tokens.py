"""Tokens: how many a text will cost, counted on this machine and never over the network.

OpenAI's models are counted exactly with tiktoken, from rank files inside this package. Nobody publishes the
tokenizers of the other families, so their counts are the o200k count times a measured factor, with an interval
that says how far off it may be. `quick` is the estimate for hot paths: it loads nothing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import math
import re
import threading
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Literal, NamedTuple

import orjson

from orchestrai.attachments import Attachment
from orchestrai.messages import Message

Method = Literal["exact", "estimated", "heuristic"]

_METHODS: Final = ("exact", "estimated", "heuristic")  # from the surest to the least sure


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A number of tokens, with how sure it is. Counts add up; a sum is as sure as its least sure part.

    Args:
        value: The likeliest number [tokens]: what displays show.
        low: No fewer than this is expected [tokens].
        high: No more than this is expected [tokens]: what budgets and context windows are checked against.
        method: exact (the model's own tokenizer), estimated (another tokenizer's count times a measured factor),
            heuristic (from the length alone).
    """

    value: int
    low: int
    high: int
    method: Method

    def __add__(self, other: TokenCount) -> TokenCount:
        """Return both together."""
        method = max(self.method, other.method, key=_METHODS.index)
        return TokenCount(self.value + other.value, self.low + other.low, self.high + other.high, method)


class _Range(NamedTuple):
    """A likely value between two bounds: factors of the o200k count, or tokens."""

    value: float
    low: float
    high: float


class _Family(NamedTuple):
    """How one family of models counts.

    `english` and `other` are factors of the o200k count: for English and code, and for text that is more than a
    fifth non-ASCII or whose stop words are of another language. `frame` is what a message costs beyond its text
    [tokens], `image` what an image costs [tokens].
    """

    english: _Range
    other: _Range
    frame: int
    image: _Range


_SAME: Final = _Range(1.0, 1.0, 1.0)

# Factors and frames: measured against o200k on prose, code, JSON and seven languages; OpenAI's frame is good to
# 3 % of a prompt. Images: the value is that of about one megapixel at the provider's default detail. OpenAI
# counts 85 at low detail, 765 for 1024 x 1024 and at most 1,536 patches x 2.46, gpt-4o-mini 33.3 times as many
# (source: platform.openai.com, guide "Images and vision"); Anthropic width x height / 750, scaled down to 1,600
# before Claude 4.7 and to three times as much since (source: platform.claude.com, guide "Vision"); Google 258 a
# tile before Gemini 3 and 1,120 since, 2,240 when asked for (source: ai.google.dev, guide "Media resolution").
_OPENAI: Final = _Family(_SAME, _SAME, 4, _Range(765, 85, 3_779))
_OPENAI_4O_MINI: Final = _OPENAI._replace(image=_Range(25_501, 2_833, 48_169))
_CLAUDE_TO_4_6: Final = _Family(_Range(1.12, 1.03, 1.25), _Range(1.5, 1.1, 2.4), 8, _Range(1_334, 54, 1_600))
_CLAUDE_FROM_4_7: Final = _Family(_Range(1.50, 1.15, 1.70), _Range(1.7, 1.1, 2.7), 8, _Range(1_334, 54, 4_784))
_CLAUDE: Final = _CLAUDE_FROM_4_7._replace(english=_Range(1.50, 1.03, 1.70))  # a name without a version: either
_GEMINI: Final = _Family(_Range(1.08, 1.00, 1.30), _Range(1.0, 0.6, 1.1), 4, _Range(1_120, 258, 2_240))
_UNKNOWN: Final = _Family(_Range(1.15, 0.95, 1.70), _Range(1.5, 0.6, 2.7), 4, _Range(1_120, 85, 4_784))
_OPENAI_FRAMING: Final = 0.03

_OPENAI_NAME: Final = re.compile(r"(?:ft:)?(?:(?:chat)?gpt-|o\d(?:-|$)|codex-|text-embedding-(?:3|ada)-)")
_CLAUDE_VERSION: Final = re.compile(r"claude(?:-[a-z]+)*-(\d{1,2})(?:[.-](\d{1,2}))?(?!\d)")
_BY_PROVIDER: Final = {"openai": _OPENAI, "anthropic": _CLAUDE, "google": _GEMINI}

_SHIPPED: Final = {"o200k_base": "o200k_base", "o200k_harmony": "o200k_base", "cl100k_base": "cl100k_base"}
_STEP: Final = 100_000  # characters: 10 times as many of one kind overflow the stack of tiktoken's regex engine
_HARD_CUT: Final = 4  # tokens: a cut inside a word or a run of spaces moves the count by less (measured: 0.7)
# Where a text can be cut without changing its tokens, in the patterns of both encodings: between a letter and
# a space that begins a word, and between a line break and a letter.
_CLEAN_CUT: Final = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])|(?<=\n)(?=[A-Za-z])")

# Words that are frequent in one language and rare in the others; a sentence of them reads better than a list.
_ENGLISH_WORDS: Final = frozenset(
    "the of and to is that it for with are this be by from have not you as at or".split()  # noqa: SIM905 - see above
)
_OTHER_WORDS: Final = frozenset(
    "der das und ist nicht ein eine mit für von zu den dem auf sich auch im des wird sind "  # noqa: SIM905 - see above
    "le la les et est une un dans que pour qui pas sur avec du ce au plus "
    "el los las y por para se su como il di che per sono della os da não uma com em het een van niet voor".split()
)


def quick(text: str, ratio: float = 1.0) -> int:
    """Return a fast guess of the text's tokens: a quarter of its UTF-8 bytes, times what was learned.

    For hot paths: it loads nothing and costs a fraction of a microsecond. In English it is 1.02 to 1.25 times the
    o200k count; it was 0.61 times on JSON and 2.06 times on Russian, which is what `ratio` corrects.

    Args:
        text: Any text.
        ratio: Tokens that replies reported per token guessed, for this model and kind of task.
    """
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) * ratio / 4)


def count(text: str, *, model: str | None = None, provider: str | None = None) -> TokenCount:
    """Return the text's tokens: exact for OpenAI's models, an interval for all others. Offline, always.

    The first call loads an encoding: about 0.25 s of CPU and 85 MB for o200k. Call it off the event loop.

    Args:
        text: Any text; special tokens in it (`<|endoftext|>`) count as plain text.
        model: Name of the model, as its provider writes it; a vendor's prefix (`openai/`) is allowed.
        provider: Whose model it is, where the name alone does not say: openai, anthropic, google.

    Returns:
        The count. Names of OpenAI's that are newer than the installed tiktoken are counted with o200k. A text
        longer than 100,000 characters is exact too, unless it has no place to cut it cleanly (no spaces between
        words, no lines); then it is estimated, within 4 tokens a cut.
    """
    family, encoding = _family(model, provider)
    if not text:
        return TokenCount(0, 0, 0, "exact" if encoding else "estimated")
    counted = _count_with(encoding or "o200k_base", text)
    if counted is None:
        return _from_length(len(text.encode("utf-8", "surrogatepass")), len(text.split()))
    tokens, doubt = counted
    if encoding:
        return TokenCount(tokens, max(1, tokens - doubt), tokens + doubt, "estimated" if doubt else "exact")
    factor = family.english if _looks_english(text) else family.other
    low = math.floor((tokens - doubt) * factor.low)
    return TokenCount(
        math.ceil(tokens * factor.value), max(1, low), math.ceil((tokens + doubt) * factor.high), "estimated"
    )


def prompt_tokens(
    messages: Iterable[Message],
    system: str | None = None,
    *,
    model: str | None = None,
    provider: str | None = None,
    json_schema: Mapping[str, Any] | None = None,
) -> TokenCount:
    """Return the input tokens of a whole request: its texts, what frames each message, images and schema.

    Images are not opened: each counts with its provider's allowance for one of about a megapixel, in an interval
    from the smallest to the largest (OpenAI 765 in 85..3,779; gpt-4o-mini 25,501 in 2,833..48,169; Claude 1,334 in
    54..1,600, since 4.7 ..4,784; Gemini 1,120 in 258..2,240; others 1,120 in 85..4,784). Text files count by their
    size.

    Args:
        messages: The conversation.
        system: System prompt; framed as one more message.
        model: As for `count`.
        provider: As for `count`.
        json_schema: Schema that the answer is constrained to; providers bill it as input.
    """
    family, encoding = _family(model, provider)
    total = TokenCount(0, 0, 0, "exact")
    framed = 0
    contents = [message.content for message in messages]
    if system is not None:
        contents.insert(0, system)
    for content in contents:
        framed += family.frame
        for part in (content,) if isinstance(content, str) else content:
            if isinstance(part, str):
                total += count(part, model=model, provider=provider)
            else:
                total += _attachment(part, family)
    if json_schema is not None:
        total += count(orjson.dumps(json_schema).decode(), model=model, provider=provider)
    spread = _OPENAI_FRAMING if encoding else 0.0
    return TokenCount(
        total.value + framed,
        math.floor((total.low + framed) * (1 - spread)),
        math.ceil((total.high + framed) * (1 + spread)),
        max(total.method, "estimated", key=_METHODS.index),
    )


def _family(model: str | None, provider: str | None) -> tuple[_Family, str | None]:
    """Return how this model counts, and its encoding if that is known and shipped."""
    name = (model or "").lower().rsplit("/", 1)[-1]
    if "claude" in name:
        return _claude(name), None
    if name.startswith(("gemini", "gemma")):
        return _GEMINI, None
    if _OPENAI_NAME.match(name) or provider == "openai":
        encoding = _openai_encoding(name)
        if encoding is None:
            return _UNKNOWN, None
        return (_OPENAI_4O_MINI if "4o-mini" in name else _OPENAI), encoding
    return _BY_PROVIDER.get(provider or "", _UNKNOWN), None


def _claude(name: str) -> _Family:
    version = _CLAUDE_VERSION.search(name)
    if version is None:
        return _CLAUDE
    number = (int(version[1]), int(version[2] or 0))
    return _CLAUDE_FROM_4_7 if number >= (4, 7) else _CLAUDE_TO_4_6


def _openai_encoding(name: str) -> str | None:
    """Return the encoding of a model of OpenAI's; None for those of before 2022, whose ranks are not shipped."""
    try:
        import tiktoken

        return _SHIPPED.get(tiktoken.encoding_name_for_model(name))
    except (ImportError, KeyError):
        return "o200k_base"


def _attachment(part: Attachment, family: _Family) -> TokenCount:
    if part.is_image:
        image = family.image
        return TokenCount(int(image.value), int(image.low), int(image.high), "estimated")
    return _from_length(part.size, 0)


def _from_length(size: int, words: int) -> TokenCount:
    """Return what the length alone says: -40 % to +150 %, the worst that was measured over languages and JSON."""
    value = math.ceil(max(size / 4, words * 1.3))
    return TokenCount(value, math.floor(value * 0.6), math.ceil(value * 2.5), "heuristic")


def _looks_english(text: str) -> bool:
    """Return False for text whose script or stop words say that it is of another language."""
    if not text.isascii() and (len(text) - len(text.encode("ascii", "ignore"))) > len(text) / 5:
        return False
    sample = text if len(text) <= 20_000 else text[:10_000] + text[-10_000:]
    words = sample.lower().split()
    other = sum(word in _OTHER_WORDS for word in words)
    return other == 0 or other <= sum(word in _ENGLISH_WORDS for word in words)


_encodings: dict[str, Any] = {}
_loading: Final = threading.Lock()


def _count_with(name: str, text: str) -> tuple[int, int] | None:
    """Return the tokens of a text and the doubt that hard cuts leave; None when the encoding cannot be had."""
    encoding = _encoding(name)
    if encoding is None:
        return None
    if len(text) <= _STEP:
        return len(encoding.encode_ordinary(text)), 0
    tokens = doubt = 0
    for chunk, clean in _chunks(text, _STEP):
        tokens += len(encoding.encode_ordinary(chunk))
        doubt += 0 if clean else _HARD_CUT
    return tokens, doubt


def _chunks(text: str, step: int) -> Iterator[tuple[str, bool]]:
    """Yield the text in pieces of at most `step` characters, and whether the cut after each changes nothing."""
    start = 0
    while len(text) - start > step:
        end, clean = start + step, False
        for cut in _CLEAN_CUT.finditer(text, end - step // 10, end):
            end, clean = cut.start(), True
        yield text[start:end], clean
        start = end
    yield text[start:], True


def _encoding(name: str) -> Any:
    """Return a `tiktoken.Encoding`, loaded once; None when tiktoken or the ranks are missing or damaged."""
    if name not in _encodings:
        with _loading:
            if name not in _encodings:
                _encodings[name] = _load(name)
    return _encodings[name]


def _load(name: str) -> Any:
    """Build an encoding from tiktoken's own constructor, with its loader replaced by one that reads our files.

    The constructor is run as a copy with other globals, so that tiktoken itself stays as it is and its pattern
    and its SHA-256 of the ranks are the ones used.
    """
    try:
        import tiktoken

        already = tiktoken.registry.ENCODINGS.get(name)
        if already is not None:
            return already
        public = importlib.import_module("tiktoken_ext.openai_public")
        construct = types.FunctionType(getattr(public, name).__code__, {**vars(public), "load_tiktoken_bpe": _ranks})
        return tiktoken.Encoding(**construct())
    except Exception as error:  # noqa: BLE001 - whatever is wrong with an installation, a guess is better than none
        warnings.warn(
            f"Exact token counts are not available ({type(error).__name__}: {error}); counts are guessed from the "
            "length of the text. Reinstall orchestrai and tiktoken to repair this.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _ranks(url: str, expected_hash: str) -> dict[bytes, int]:
    """Return the merge ranks that tiktoken would download from `url`, from the file of that name in this package.

    Raises:
        ValueError: The file is not byte for byte the one that tiktoken expects.
    """
    name = url.rsplit("/", 1)[-1]
    packed = resources.files("orchestrai").joinpath("data", f"{name}.gz").read_bytes()
    data = gzip.decompress(packed)
    if hashlib.sha256(data).hexdigest() != expected_hash:
        raise ValueError(f"{name} in this package is damaged: its SHA-256 is not {expected_hash}")
    lines = (line.split() for line in data.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}
