"""What the constructor of a platform is given: checked, and told with the name of the platform and of the argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from orchestrai.errors import InvalidSettings, PlatformError, nearest
from orchestrai.pricing import check_own_price

if TYPE_CHECKING:
    from yarl import URL

LIMITS: Final = ("rpm", "tpm", "rpd")  # requests a minute, tokens a minute, requests a day
_PATHS: Final = ("/chat/completions", "/completions", "/responses", "/messages")  # what is no part of a base_url


def sealed(key: str | Callable[[], str] | None) -> Callable[[], str]:
    """Return the key as a function: a closure shows nothing in repr, vars, copies and tracebacks."""
    if not callable(key):
        value = (key or "").strip()
        return lambda: value

    def asked() -> str:
        try:
            return key().strip()
        except Exception as error:  # noqa: BLE001  # a person's function may raise anything; its text may hold the key
            failure = PlatformError("key", f"The function given as api_key failed ({type(error).__name__}).")
        raise failure

    return asked


def base_url(name: str, address: str, example: str) -> URL:
    """Return the address without a slash at its end.

    Raises:
        InvalidSettings: It is none, or goes too far: into the protocol's own path, a password, a query.
    """
    from yarl import URL

    try:
        base = URL(address.rstrip("/"))
    except ValueError:
        base = URL()
    if base.scheme not in ("http", "https") or not base.host:
        shown = "one with a password" if "@" in address else repr(address)
        raise InvalidSettings(f"{name}: base_url is an address such as {example}, not {shown}.")
    full = next((path for path in _PATHS if base.path.endswith(path)), None)
    if full is not None:
        raise InvalidSettings(f"{name}: base_url is {example}, for instance: without {full} at its end.")
    if base.user or base.password or base.query:
        raise InvalidSettings(f"{name}: base_url holds a password or a query. The key goes into api_key=.")
    return base


def limits(name: str, given: Mapping[str, float | None]) -> Mapping[str, float]:
    """Return the limits that are given, without those that are None.

    Raises:
        InvalidSettings: One is unknown, or no number above 0.
    """
    found = {}
    for key, value in given.items():
        if key not in LIMITS:
            raise InvalidSettings(f"{name}: limits has no {key!r} (known: {', '.join(LIMITS)}).{nearest(key, LIMITS)}")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise InvalidSettings(f"{name}: limits[{key!r}] is a number above 0 or None, not {value!r}.")
        found[key] = value
    return MappingProxyType(found)


def price(name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the prices.

    Raises:
        InvalidSettings: A class of tokens is unknown, or a price is none.
    """
    if given:
        check_own_price(given, f"{name}: price")
    return MappingProxyType(dict(given))


def headers(name: str, given: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers.

    Raises:
        InvalidSettings: One is no line of ASCII text; its value is not shown.
    """
    for key, value in given.items():
        if not all(isinstance(text, str) and text.isascii() and text.isprintable() for text in (key, value)):
            raise InvalidSettings(f"{name}: headers[{key!r}] must be one line of ASCII text.")
    return given


def one_of(name: str, field: str, value: Any, known: tuple[str, ...]) -> Any:
    """Return the value when it is known.

    Raises:
        InvalidSettings: It is not; the message names the nearest.
    """
    if value not in known:
        raise InvalidSettings(f"{name}: {field} is one of {', '.join(known)}, not {value!r}.{nearest(value, known)}")
    return value


def at_least_1(name: str, field: str, value: int) -> int:
    """Return the number.

    Raises:
        InvalidSettings: It is no whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSettings(f"{name}: {field} is a whole number of at least 1, not {value!r}.")
    return value
