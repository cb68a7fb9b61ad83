"""A full disk, told as an error of ours that names the place and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamfm import files
from streamfm.errors import DataError, StreamFMError

HINT = "make room there; temporary files lie where TMPDIR says, or from Python where `folder` does"
# DuckDB reports the system's errors, and the lack of room for what it spills, as text only.
_IN_TEXT = re.compile(r"max_temp_directory_size|File too large|Disk quota exceeded")


def is_full(error: Exception) -> bool:
    """Whether an error, of the system, Arrow or DuckDB, says that no more can be written."""
    return files.is_disk_full(error) or _IN_TEXT.search(str(error)) is not None


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """A block that writes to a folder.

    Raises:
        DataError: The disk is full; names the folder.
    """
    try:
        yield
    except StreamFMError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise DataError(f"{folder}: the disk is full ({error})", hint=HINT) from error
