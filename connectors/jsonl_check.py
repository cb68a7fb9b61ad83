"""What `streamfm stream --check` looks at without brokers: JSON lines. Nothing is written, or waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from connectors.jsonl_events import JsonLinesSource, default_dead_letters, refuse_one_file
from connectors.jsonl_files import STANDARD, told
from connectors.jsonl_progress import resumption
from streamfm.errors import StreamError
from streamfm.stream.ports import Record

Check = tuple[str, bool, str]


def check(source: str, scores: str, dead_letters: str | None = None) -> tuple[list[Check], Record | None]:
    """What is there and what is not.

    Args:
        source: As `open_json_lines` takes it.
        scores: The same.
        dead_letters: The same.

    Returns:
        What was looked at, whether it is right, and what was found; and an event of the input, if it is a file with
        one.
    """
    dead_letters = dead_letters or default_dead_letters(source, scores)
    events: list[Record] = []
    found = [
        _attempt("input", lambda: _read(source, events)),
        _attempt("scores", lambda: _writable(scores)),
        _attempt("dead letters", lambda: _writable(dead_letters)),
    ]
    if all(is_right for _, is_right, _ in found):
        found.append(_attempt("run", lambda: _run(source, scores, dead_letters)))
    return found, events[0] if events else None


def _attempt(what: str, ask: Callable[[], str]) -> Check:
    try:
        return what, True, ask()
    except StreamError as error:
        return what, False, str(error)


def _read(path: str, events: list[Record]) -> str:
    """Whether it can be read; the first event of a file goes into `events`."""
    if path == STANDARD:
        return "standard input"
    with told(path):
        size = Path(path).stat().st_size
        if not os.access(path, os.R_OK):
            raise PermissionError(0, "no permission to read it")
    if not Path(path).is_file():
        # To open a pipe is to wait for its writer.
        return f"{path}: no file, it is read once"
    source = JsonLinesSource(path)
    try:
        events += source.poll(1, 0.0).records
    finally:
        source.close(0.0)
    return f"{path}: {size:,} bytes"


def _writable(path: str) -> str:
    if path == STANDARD:
        return "the standard one"
    is_there = Path(path).exists()
    with told(path):
        if Path(path).is_dir():
            raise IsADirectoryError(0, "is a folder")
        if not is_there and not Path(path).parent.is_dir():
            raise FileNotFoundError(0, "its folder is not there")
        if not os.access(path if is_there else Path(path).parent, os.W_OK):
            raise PermissionError(0, "no permission to write it")
    return f"{path}: {'is there' if is_there else 'will be made'}"


def _run(source: str, scores: str, dead_letters: str) -> str:
    """Where the run would begin."""
    refuse_one_file(source, scores, dead_letters)
    if scores == STANDARD or (Path(scores).exists() and not Path(scores).is_file()):
        return "begins at the beginning, each time: the scores go to no file"
    if source != STANDARD and not Path(source).is_file():
        return "begins with what the pipe has"
    sizes = {
        str(Path(path).resolve()): Path(path).stat().st_size for path in (scores, dead_letters) if Path(path).is_file()
    }
    events = JsonLinesSource(source)
    try:
        done = resumption(Path(f"{scores}.progress"), events.input, sizes)
    finally:
        events.close(0.0)
    return f"goes on at byte {done.offset:,} of the input" if done.outputs else "begins at the beginning"
