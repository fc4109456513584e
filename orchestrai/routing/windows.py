"""Windows: which quota windows limit an account, from its plan, its limits and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from orchestrai.limits.quota import Meter, Span, Unit, Window, amount_text
from orchestrai.platforms.catalogue import Plan, windows
from orchestrai.platforms.protocol import Platform
from orchestrai.text import local_time

_LIMITS: Final[Mapping[str, tuple[Unit, Span]]] = {
    "rpm": ("requests", "minute"),
    "tpm": ("tokens", "minute"),
    "rpd": ("requests", "day"),
}


def configured_windows(setting: Mapping[str, Any]) -> dict[str, tuple[Window, ...]]:
    """Return the windows of the settings: platform → windows.

    Raises:
        InvalidSettings: A table has an unknown field, or parts that contradict each other.
    """
    return {name: windows(tables, f"windows.{name}") for name, tables in setting.items()}


def meters_of(
    platform: Platform, model: str, plan: Plan | None = None, configured: tuple[Window, ...] = ()
) -> tuple[Meter, ...]:
    """Return what limits the requests to a model at a platform, in a fixed order.

    A window of the settings wins over one of the same unit and span of the platform's `limits`, and that over the
    plan's, from which it keeps when the window begins anew.

    Args:
        platform: The account.
        model: The model.
        plan: Its plan, as the catalogue records it.
        configured: Windows of the settings.
    """
    found: dict[tuple[str, str], tuple[Window, str]] = {}
    if plan is not None:
        checked = f"catalogue {plan.checked}" if plan.checked is not None else "catalogue"
        found = {(window.unit, window.per): (window, checked) for window in plan.windows}
    for name, limit in (getattr(platform, "limits", None) or {}).items():
        if name not in _LIMITS:  # a third party's own
            continue
        unit, span = _LIMITS[name]
        known, _ = found.get((unit, span), (None, ""))
        if known is None:
            found[unit, span] = (Window(unit, limit, span, "rolling"), "settings")
        elif known.limit != limit:
            found[unit, span] = (replace(known, limit=limit), "settings")
    for window in configured:
        found[window.unit, window.per] = (window, "settings")
    return tuple(_meter(platform, model, window, source) for window, source in found.values())


def _meter(platform: Platform, model: str, window: Window, source: str) -> Meter:
    account = platform.account or ""
    # An account is one wherever it is named: two names with one key share its windows.
    whose = f"{platform.provider}/{account}" if account else f"{platform.name}@{platform.address or ''}"
    of_model = f"/{model}" if window.each == "model" else ""
    zone = f" {window.time_zone}" if window.time_zone else ""
    return Meter(
        f"{whose}{of_model} {window.unit}/{window.per} {window.reset}{zone}", window, platform.name, account, source
    )


def used_up(meter: Meter, until_us: int | None) -> str:
    """Return why nothing more fits into a window: `1,000 requests per day are used until 2026-11-28 00:00`."""
    window = meter.window
    if window.per == "call":
        return f"what is left of max_cost={amount_text('usd', window.whole)} is too little for it"
    if until_us is None:
        return f"{window} are too little for it"
    return f"{window} are used up until {local_time(until_us)}"
