"""What a command says when it cannot go on: one or two lines, and a hint.

DuckDB's messages are written for its shell: they carry the model's own complaint inside, a page of candidates, or an
excerpt with a caret. The complaint is taken out, lists are cut, the excerpt stays.
"""

from __future__ import annotations

import re
import sys

from streamfm.errors import DataError, StreamFMError

_MAX_LINE = 300
_FROM_THE_MODEL = re.compile(r"while executing the UDF: \w+: (.*?)(?:\nhint: (.*?))?(?:\n\nAt:.*)?$", re.DOTALL)
_NO_SUCH_CALL = re.compile(r"Macro (\w+)\(\) does not support the supplied arguments.*?\1\((.*)\)", re.DOTALL)
_IN_JSON = re.compile(r'\{"exception_type".*?"exception_message":"((?:[^"\\]|\\.)*)".*\}')
_FOREIGN_ROW = re.compile(r"STRUCT cast must have at least one matching member")
_READ_ONLY = "attached in read-only mode"
_CANDIDATES = re.compile(r"\n\s*((?:Candidate|Did you mean|Possible)[^\n]*(?:\n\t[^\n]*)*)")
_TRACE = re.compile(r"\n+(?:At:|Stack Trace:).*", re.DOTALL)

_EXTRAS = {
    **dict.fromkeys(("torch", "onnx"), "train"),
    **dict.fromkeys(("kafka", "msgspec", "prometheus_client"), "stream"),
    "confluent_kafka": "stream,confluent",
}
"""Which of streamfm's extras brings a library that not every installation has."""

DEFECT = "this is a defect of streamfm; the same command with --debug prints the traceback to report"


def complaint(error: BaseException) -> str:
    """What to tell of an error: `error: ...`, and maybe a line `hint: ...`."""
    message, hint = _parts(error)
    return f"error: {message}" + (f"\nhint: {hint}" if hint else "")


def from_model(error: BaseException | None) -> DataError | None:
    """The model's own complaint about what it was given, if an error of DuckDB carries one."""
    found = _FROM_THE_MODEL.search(str(error)) if _is_from_duckdb(error) else None
    return DataError(found[1], hint=found[2]) if found else None


def is_interruption(error: BaseException) -> bool:
    """Whether it is how Python, or DuckDB, tells of Ctrl-C."""
    if isinstance(error, KeyboardInterrupt):
        return True
    # Whoever has not imported it cannot have its errors.
    if "duckdb" not in sys.modules:
        return False
    from streamfm.data.interruptible import is_query_interrupted

    return is_query_interrupted(error)


def _parts(error: BaseException) -> tuple[str, str | None]:
    if isinstance(error, StreamFMError):
        return error.message, error.hint
    if isinstance(error, MemoryError):
        return "out of memory", "fewer --threads need less"
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"this needs {error.name}, which is not installed", f"pip install 'streamfm[{_EXTRAS[error.name]}]'"
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}", None
    if _is_from_duckdb(error):
        return _parts_of_duckdb(str(error))
    return f"{type(error).__name__}: {error}", DEFECT


def _parts_of_duckdb(text: str) -> tuple[str, str | None]:
    if found := _FROM_THE_MODEL.search(text):
        return found[1], found[2]
    if found := _NO_SUCH_CALL.search(text):
        names = found[2].replace(" := NULL", "")
        return f"{found[1]}() does not take these arguments", f"{found[1]}({names}), or a whole row: {found[1]}(t)"
    if _FOREIGN_ROW.search(text):
        return "the row has none of the model's inputs", "its columns are taken by their names"
    text = _IN_JSON.sub(lambda inner: inner[1].replace('\\"', '"'), _TRACE.sub("", text))
    candidates = _CANDIDATES.search(text)
    if candidates:
        text = text.replace(candidates[0], "")
    lines = [_cut(line) for line in text.splitlines() if line.strip()]
    if _READ_ONLY in text:
        return "\n".join(lines), "--write opens the database file for writing"
    return "\n".join(lines), _cut(" ".join(candidates[1].split())) if candidates else None


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 1] + "…"


def _is_from_duckdb(error: BaseException | None) -> bool:
    # Whoever has not imported it cannot have its errors.
    return type(error).__module__.partition(".")[0] in ("duckdb", "_duckdb")
