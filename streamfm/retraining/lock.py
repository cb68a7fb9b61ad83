"""One at a time: whoever retrains a model holds its lock, which the system lets go when the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamfm.errors import RegistryError

LOCK_NAME = "retraining.lock"


@contextmanager
def locked(folder: Path, model: str) -> Iterator[None]:
    """Hold the lock of a model's folder during the block.

    It spares the work of a second round; that only one of two can move the alias is the registry's doing, also on file
    systems whose locks do not reach another machine.

    Raises:
        RegistryError: Another process holds it; names it.
    """
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
            raise RegistryError(
                f"{model} is being retrained by process {holder or 'unknown'}",
                hint="wait for its end; one `streamfm retrain --every` for a model is enough",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
