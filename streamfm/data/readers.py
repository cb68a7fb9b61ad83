"""SQL that reads files: Parquet, CSV and JSON lines, compressed or not, by path, glob or folder.

A text file does not say what its values are. Where the specification declares an input, that decides: `zip = "VARCHAR"`
keeps the zero of 01234, and `json = "epoch_ms"` makes an instant of a number. Elsewhere DuckDB's guess stands.
"""

from __future__ import annotations

import difflib
import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from streamfm.errors import DataError
from streamfm.expressions import quoted
from streamfm.features import Input

_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv"}
_FORMATS |= dict.fromkeys((".json", ".jsonl", ".ndjson"), "json")
_COMPRESSIONS = (".gz", ".zst")
_MICROSECONDS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
_TIMES = {"DATE", "TIME", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"}
# One pass over the whole file: a field that first appears late, or a text after a million numbers, must not be lost.
_WHOLE_FILE = ", sample_size = -1"

Describe = Callable[[str], Mapping[str, str]]
"""Names and SQL types of the columns of a query."""


def find_files(paths: Sequence[str]) -> list[str]:
    """Existing files, in a fixed order: each path itself, what a glob matches, or the Parquet files in a folder.

    Raises:
        DataError: A path, glob or folder that has no file.
    """
    if not paths:
        raise DataError("no file is named", hint="name at least one")
    return [file for path in paths for file in _files_of(path)]


def scan(files: Sequence[str], inputs: Sequence[Input], describe: Describe) -> str:
    """The query that reads files of one format, one after the other, in the order of their rows.

    Args:
        files: What `find_files` gave.
        inputs: Declared columns, which decide how text files are read.
        describe: Asks DuckDB what it would make of a query.

    Raises:
        DataError: Files of an unknown format, or of several.
    """
    formats = {file: format_of(file) for file in files}
    if len(set(formats.values())) > 1:
        other = next(file for file in files if formats[file] != formats[files[0]])
        message = f"{files[0]} is {formats[files[0]]}, but {other} is {formats[other]}: expected files of one format"
        raise DataError(message, hint="read them with SQL: SELECT ... FROM 'a.parquet' UNION ALL BY NAME SELECT ...")
    reader, union = f"read_{formats[files[0]]}", ", union_by_name = true" if len(files) > 1 else ""
    listed = f"[{', '.join(literal(file) for file in files)}]{union}"
    if reader == "read_parquet":
        return f"SELECT * FROM read_parquet({listed})"
    declared = {item.name.casefold(): item for item in inputs}
    if reader == "read_csv":
        return _scan_csv(listed, declared, describe)
    return _scan_json(listed, declared, describe)


def literal(text: str) -> str:
    """The text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _files_of(path: str) -> list[str]:
    if "://" in path:
        return [path]
    if Path(path).is_dir():
        found = sorted(str(file) for ending in ("parquet", "pq") for file in Path(path).rglob(f"*.{ending}"))
        if not found:
            raise DataError(f"{path}: the folder holds no Parquet file", hint=f"name the files: '{path}/*.csv'")
        return found
    if Path(path).exists():
        return [path]
    found = sorted(file for file in glob.glob(path, recursive=True) if Path(file).is_file())  # noqa: PTH207
    if not found:
        what = "no file matches" if glob.has_magic(path) else "no such file"
        near = difflib.get_close_matches(Path(path).name, _names_beside(path), n=1, cutoff=0.6)
        hint = (
            f"did you mean {str(Path(path).with_name(near[0]))!r}?" if near else f"the working folder is {Path.cwd()}"
        )
        raise DataError(f"{path}: {what}", hint=hint)
    return found


def _names_beside(path: str) -> list[str]:
    folder = Path(path).parent
    return [file.name for file in folder.iterdir()] if folder.is_dir() else []


def format_of(file: str) -> str:
    """`parquet`, `csv` or `json`, by the ending of a name.

    Raises:
        DataError: The ending tells no format.
    """
    suffixes = [suffix.lower() for suffix in Path(file.split("?", maxsplit=1)[0]).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    ending = suffixes[-1] if suffixes else ""
    if ending not in _FORMATS:
        hint = f"name it {', '.join(_FORMATS)}, or read it with SQL: SELECT * FROM read_csv('{file}')"
        raise DataError(f"{file}: the ending {ending!r} tells no format", hint=hint)
    return _FORMATS[ending]


def _scan_csv(listed: str, declared: Mapping[str, Input], describe: Describe) -> str:
    found = describe(f"SELECT * FROM read_csv({listed})")
    items = {name: declared[name.casefold()] for name in found if name.casefold() in declared}
    types = {name: _csv_type(item, found[name]) for name, item in items.items()}
    given = f", types = {_struct(types)}" if types else ""
    changes = {name: change for name, item in items.items() if (change := _from_epoch(item, name, types[name]))}
    return _replacing(changes) + f" FROM read_csv({listed}{given})"


def _scan_json(listed: str, declared: Mapping[str, Input], describe: Describe) -> str:
    found = describe(f"SELECT * FROM read_json({listed}{_WHOLE_FILE})")
    items = {name: declared[name.casefold()] for name in found if name.casefold() in declared}
    types = dict(found) | {name: _json_type(item, found[name]) for name, item in items.items()}
    changes = {
        name: change
        for name, item in items.items()
        if (change := _from_epoch(item, name, types[name]) or _from_mixed(item, name, types[name]))
    }
    return _replacing(changes) + f" FROM read_json({listed}, format = 'auto', columns = {_struct(types)})"


def _csv_type(item: Input, found: str) -> str:
    if item.family == "text" and not item.is_list:
        return "VARCHAR"
    if item.is_list or found == "VARCHAR" or item.family in ("real", "boolean"):
        return item.type
    return found


def _json_type(item: Input, found: str) -> str:
    if item.is_list:
        return item.type if found.endswith("[]") else found
    # DuckDB takes '2024-01-01' for a date; as text it stays what was written.
    if item.family == "text":
        return "VARCHAR" if found in _TIMES | {"UUID"} else found
    return item.type if found == "VARCHAR" and item.family in ("date", "timestamp", "timestamptz") else found


def _from_epoch(item: Input, name: str, kind: str) -> str | None:
    """The instant that a number stands for."""
    factor = _MICROSECONDS.get(item.json)
    if factor is None or item.is_list or kind not in {*_WHOLE, "DOUBLE"}:
        return None
    number = f"{quoted(name)} * {factor}" if kind in _WHOLE else f"round({quoted(name)} * {factor})"
    return f"make_timestamp(CAST({number} AS BIGINT))"


def _from_mixed(item: Input, name: str, kind: str) -> str | None:
    """The texts of a JSON column that mixes texts and numbers, 2.0 as '2'."""
    if kind != "JSON" or item.family not in ("text", "integer"):
        return None
    value, text = quoted(name), f"({quoted(name)} ->> '$')"
    whole = f"json_type({value}) = 'DOUBLE' AND CAST({text} AS DOUBLE) = TRY_CAST({text} AS BIGINT)"
    return f"CASE WHEN {whole} THEN CAST(CAST({text} AS BIGINT) AS VARCHAR) ELSE {text} END"


def _struct(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{quoted(key)}: {literal(value)}" for key, value in values.items()) + "}"


def _replacing(changes: Mapping[str, str]) -> str:
    if not changes:
        return "SELECT *"
    return f"SELECT * REPLACE ({', '.join(f'{change} AS {quoted(name)}' for name, change in changes.items())})"
