"""Exports: frames as CSV or Parquet, figures as one HTML file that needs no network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from orchestrai.errors import InvalidFile, InvalidInput
from orchestrai.results.files import NEEDS_PYARROW, replacing, write_csv, write_parquet


def export(value: Any, path: Path) -> Path:
    """Write a frame or a figure; see `Costs.export`."""
    kind = path.suffix.lower()
    if kind == ".html":
        if not hasattr(value, "to_page"):
            raise InvalidInput(
                "Only a figure of orch.costs.plot, or the dashboard, becomes a page. A frame: .csv, .parquet."
            )
        with replacing(path) as fresh:
            fresh.write_text(value.to_page(), encoding="utf-8")
        return path
    if kind not in (".csv", ".parquet"):
        raise InvalidFile(f"{path}: unknown kind of file {path.suffix!r}, use one of .csv, .parquet, .html.")
    frame = getattr(value, "frame", value)  # a figure gives the frame that it shows
    if not hasattr(frame, "columns"):
        raise InvalidInput(f"A DataFrame is written to {kind}, not {type(value).__name__}.")
    if kind == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InvalidFile(f"{path}: {NEEDS_PYARROW}")
    with replacing(path) as fresh:
        (write_csv if kind == ".csv" else write_parquet)(fresh, frame)
    return path
