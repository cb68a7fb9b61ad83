"""Locks between processes, where there is no room for what they tell."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from streamfm.locking import FolderLock, LockedError

Limit = Callable[[int], AbstractContextManager[None]]


def test_a_full_disk_keeps_nobody_from_a_lock_now_or_later(tmp_path: Path, file_size_limit: Limit) -> None:
    path = tmp_path / "work.lock"
    with FolderLock(path, "the first"):
        pass
    # Nor does it tell of an earlier holder.
    refused = pytest.raises(LockedError, match="the third: another process has it")
    with file_size_limit(0), FolderLock(path, "the second"), refused:
        FolderLock(path, "the third").take()
    with FolderLock(path, "the last"):
        assert path.read_text()
