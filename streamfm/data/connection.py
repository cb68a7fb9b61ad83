"""The private DuckDB that reads rows: in UTC, spilling to a temporary folder that is gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from streamfm.errors import DataError


@contextmanager
def connected(
    *, threads: int | None = None, memory_limit: str = "2GB", folder: str | Path | None = None
) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """A connection of its own, and its temporary folder; inside `with`.

    Args:
        threads: Of DuckDB; all cores by default.
        memory_limit: Of DuckDB; what does not fit is spilled.
        folder: Where to spill; the system's temporary folder by default.

    Raises:
        DataError: DuckDB refuses a setting.
    """
    with tempfile.TemporaryDirectory(prefix="streamfm-", dir=folder) as spill:
        connection = _connect(spill, threads, memory_limit)
        try:
            yield connection, spill
        finally:
            connection.close()


def _connect(folder: str, threads: int | None, memory_limit: str) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {
        "temp_directory": folder,
        "memory_limit": memory_limit,
        "python_enable_replacements": False,
        "preserve_insertion_order": True,
    }
    try:
        connection = duckdb.connect(config=config | ({"threads": threads} if threads else {}))
    except duckdb.Error as error:
        raise DataError(f"DuckDB refuses a setting: {error}", hint="memory_limit is written like '2GB'") from error
    # GLOBAL: cursors of this connection are in UTC too.
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    return connection
