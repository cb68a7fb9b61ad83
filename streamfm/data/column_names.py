"""The names of columns as they were written: DuckDB makes `a_1` of a second `a`, or of an `A`, without a word.

Which of two columns a name means nobody can say; so a source that has one twice is refused, as the Scorer refuses such
rows. A query is known by what it selects: what DuckDB renamed in a file that it reads has the new name there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from streamfm.data.readers import format_of, literal
from streamfm.errors import DataError

Execute = Callable[[str], list[tuple[Any, ...]]]
"""All rows of an SQL query."""

_DIALECT = "Delimiter, Quote, Escape, Comment, SkipRows, HasHeader, len(Columns)"


def refuse_repeated(source: str, names: Sequence[str]) -> None:
    """Refuse names of which two are the same to SQL, where upper and lower case are one.

    Args:
        source: For messages: the file, "the SQL query" or the kind of table.
        names: The columns' names as written; an empty one is none.

    Raises:
        DataError: Names the source and the column.
    """
    seen: dict[str, str] = {}
    for name in filter(None, names):
        before = seen.get(name.casefold())
        if before is not None:
            other = "" if before == name else f" (as {name!r}, the same to SQL)"
            raise DataError(f"{source}: column {before!r} is there twice{other}", hint="rename or drop one")
        seen[name.casefold()] = name


def refuse_repeated_in_files(source: str, files: Sequence[str], columns: Sequence[str], execute: Execute) -> None:
    """Refuse files of one format of which one has a column twice.

    Objects of JSON each have names of their own, and DuckDB refuses a name twice in one; but a key in two cases would
    be lost, in whichever objects the two are.

    Args:
        source: All of them, for messages.
        files: Their paths.
        columns: The names that DuckDB gave their columns.
        execute: Asks DuckDB.

    Raises:
        DataError: Names the file, of JSON the source, and the column.
    """
    if format_of(files[0]) == "json":
        # The keys are a pass over all that is there, so only where DuckDB may have renamed one.
        if any(_may_be_renamed(name, columns) for name in columns):
            objects = f"read_json_objects([{', '.join(map(literal, files))}])"
            keys = execute(f"SELECT DISTINCT unnest(json_keys(json)) AS key FROM {objects} ORDER BY key")
            refuse_repeated(source, [key for (key,) in keys])
        return
    names_of = _names_in_parquet if format_of(files[0]) == "parquet" else _names_in_csv
    for file in files:
        refuse_repeated(file, list(names_of(file, execute)))


def _may_be_renamed(name: str, columns: Sequence[str]) -> bool:
    """Whether DuckDB may have made the name, which is then one of the others with a number behind it."""
    base, _, number = name.rpartition("_")
    return number.isdigit() and base.casefold() in {column.casefold() for column in columns}


def _names_in_parquet(file: str, execute: Execute) -> Iterator[str]:
    """The names of the columns, without those of the fields in them: the schema lists each before its fields."""
    fields = 0
    for name, children in execute(f"SELECT name, num_children FROM parquet_schema({literal(file)}) OFFSET 1"):
        if fields == 0:
            yield name
        fields += (children or 0) - (fields > 0)


def _names_in_csv(file: str, execute: Execute) -> Iterator[str]:
    """The names in the header, read as a row of texts; none where there is no header."""
    dialect = execute(f"SELECT {_DIALECT} FROM sniff_csv({literal(file)})")[0]
    *signs, skipped, has_header, width = dialect
    if not has_header:
        return
    delimiter, quote, escape, comment = (literal("" if sign == "(empty)" else sign) for sign in signs)
    types = ", ".join(f"'{number}': 'VARCHAR'" for number in range(width))
    options = f"delim = {delimiter}, quote = {quote}, escape = {escape}, comment = {comment}, skip = {skipped}"
    lenient = "auto_detect = false, header = false, parallel = false, strict_mode = false"
    query = f"FROM read_csv({literal(file)}, {lenient}, {options}, columns = {{{types}}}) LIMIT 1"
    for name in next(iter(execute(query)), ()):
        yield (name or "").strip()
