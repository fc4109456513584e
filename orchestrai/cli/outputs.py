"""Output files: checked before anything is sent, written whole or not at all."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from orchestrai.cli.files import kind_of
from orchestrai.cli.records import batch_record, json_text, result_record
from orchestrai.errors import InvalidFile
from orchestrai.results.batch_result import BatchResult
from orchestrai.results.files import NEEDS_PYARROW, refusals, replacing, write_csv, write_parquet


def check_output(path: Path, source: Path | None = None) -> None:
    """Make sure that a batch can be written there, by trying.

    Args:
        path: The output file; its folder must exist, it need not.
        source: The input file, which is never overwritten.

    Raises:
        InvalidFile: It cannot be written; the message says why.
    """
    if kind_of(path) == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InvalidFile(f"{path}: {NEEDS_PYARROW}")
    check_writable(path)
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise InvalidFile(f"{path}: is the input file, and would be overwritten. Choose another name.")


def check_writable(path: Path) -> None:
    """Make sure that a file can be written there, by trying.

    Raises:
        InvalidFile: It cannot; the message says why.
    """
    with refusals(path):
        folder = path.resolve().parent
        if path.is_dir():
            raise InvalidFile(f"{path}: this is a folder, not a file.")
        if not folder.is_dir():
            raise InvalidFile(f"{path}: there is no folder {folder}. Make it first.")
        if path.exists() and not os.access(path, os.W_OK):
            raise InvalidFile(f"{path}: this file is write-protected.")
    with replacing(path, keep=False) as trial:
        trial.touch(exist_ok=False)


def write_batch(path: Path, batch: BatchResult) -> None:
    """Write a batch, in the kind of file that its name says; the file is replaced whole or left as it was.

    JSON: the totals and all results. JSONL: one result a line. CSV and Parquet: the frame of `to_pandas()`; in CSV
    a text that a spreadsheet would run as a formula has a `'` before it.

    Raises:
        InvalidFile: The file cannot be written.
    """
    kind = kind_of(path)
    with replacing(path) as temporary:
        if kind == "json":
            temporary.write_text(json_text(batch_record(batch), indent=2) + "\n", encoding="utf-8")
        elif kind == "jsonl":
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json_text(result_record(result)) + "\n" for result in batch)
        elif kind == "csv":
            write_csv(temporary, batch.to_pandas())
        else:
            write_parquet(temporary, batch.to_pandas())


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; the file is replaced whole or left as it was.

    Raises:
        InvalidFile: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
