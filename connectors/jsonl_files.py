"""The files below the JSON lines adapter: lines and their places, outputs that can be cut back."""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from streamfm import files
from streamfm.errors import StreamError

STANDARD = "-"
MAX_LINE_BYTES = 64 << 20

_READ_BYTES = 1 << 20
_TAIL_BYTES = 4096


class Line(NamedTuple):
    """A line without its newline, and where the next one begins, in bytes."""

    offset: int
    value: bytes
    end: int


class Input:
    """Lines of a file, from any place on, or of standard input, a pipe or a terminal, which are read once.

    Attributes:
        name: As it was given.
        is_plain: Whether it is a file, which can be read again.
        identity: What a progress file calls it.
        position: Where the next line begins.
    """

    def __init__(self, path: str) -> None:
        """Open it.

        Raises:
            StreamError: It cannot be read.
        """
        self.name = path
        with told(path):
            self._file = sys.stdin.fileno() if path == STANDARD else os.open(path, os.O_RDONLY)
        self.is_plain = path != STANDARD and stat.S_ISREG(os.fstat(self._file).st_mode)
        self.identity = str(Path(path).resolve()) if self.is_plain else STANDARD
        self.position = 0
        self._buffer = b""
        self._at_end = False

    def seek(self, position: int) -> None:
        """Go on with the line that begins there; only of a file."""
        self.position, self._buffer, self._at_end = position, b"", False

    def is_finished(self) -> bool:
        """Whether the end was met, and all before it was taken."""
        return self._at_end and not self._buffer

    def read_lines(self, count: int, timeout_s: float, *, last: bool) -> list[Line]:
        """Up to so many complete lines, as soon as there are some; empty ones are passed over.

        Args:
            count: The most lines.
            timeout_s: How long a pipe may be waited for.
            last: Whether what stands at the end without a newline is a line, too.

        Raises:
            StreamError: A line of more than `MAX_LINE_BYTES`, or the system's error.
        """
        while b"\n" not in self._buffer and self._fill(timeout_s):
            # A pipe gives a line in pieces.
            if not self.is_plain:
                break
        lines = self._take(count)
        if last and self._at_end and self._buffer and len(lines) < count:
            lines += self._take_last()
        return lines

    def unread_bytes(self) -> int:
        """How much of a file was not taken yet; what is in a pipe is not known: 0."""
        with suppress(OSError):
            return max(0, os.fstat(self._file).st_size - self.position) if self.is_plain else 0
        return 0

    def check_same(self) -> None:
        """See that it still is the file that was opened, and not cut.

        Raises:
            StreamError: It was replaced, removed, or is shorter than what was read of it.
        """
        hint = "a file that is followed may only grow; give the new one as another input"
        with told(self.name):
            held = os.fstat(self._file)
        try:
            found = Path(self.name).stat()
        except FileNotFoundError as error:
            raise StreamError(f"{self.name}: was removed while it was read", hint=hint) from error
        if (held.st_dev, held.st_ino) != (found.st_dev, found.st_ino):
            raise StreamError(f"{self.name}: was replaced by another file while it was read", hint=hint)
        if held.st_size < self.position:
            message = f"{self.name}: has {held.st_size:,} bytes, expected {self.position:,} or more: it was cut"
            raise StreamError(message, hint=hint)

    def digest(self, position: int) -> str:
        """The sha256 of what stands right before a place: tells a file from another one."""
        start = max(0, position - _TAIL_BYTES)
        with told(self.name):
            return hashlib.sha256(os.pread(self._file, position - start, start)).hexdigest()

    def close(self) -> None:
        """Let go of it."""
        if self.name != STANDARD:
            with suppress(OSError):
                os.close(self._file)

    def _fill(self, timeout_s: float) -> bool:
        """Read more, if there is more now."""
        if len(self._buffer) > MAX_LINE_BYTES:
            raise StreamError(
                f"{self.name}: the line at byte {self.position:,} has more than {MAX_LINE_BYTES:,} bytes",
                hint="events are one JSON object a line",
            )
        with told(self.name):
            if self.is_plain:
                more = os.pread(self._file, _READ_BYTES, self.position + len(self._buffer))
            elif self._at_end or not select.select([self._file], [], [], timeout_s)[0]:
                return False
            else:
                more = os.read(self._file, _READ_BYTES)
        self._at_end = not more
        self._buffer += more
        return bool(more)

    def _take(self, count: int) -> list[Line]:
        lines: list[Line] = []
        start = 0
        while len(lines) < count and (end := self._buffer.find(b"\n", start)) >= 0:
            value = self._buffer[start:end]
            if value.strip():
                lines.append(Line(self.position + start, value, self.position + end + 1))
            start = end + 1
        self.position += start
        self._buffer = self._buffer[start:]
        return lines

    def _take_last(self) -> list[Line]:
        """What stands at the end without a newline."""
        if b"\n" in self._buffer:
            return []
        value, start = self._buffer, self.position
        self.position, self._buffer = start + len(value), b""
        return [Line(start, value, self.position)] if value.strip() else []


class Output:
    """A file that is written from a place on and can be cut back to it; or standard output, a pipe, a device.

    Attributes:
        name: As it was given.
        is_plain: Whether it is a file.
        size: Bytes written, of a file with what it held before.
        identity: What a progress file calls it.
    """

    def __init__(self, path: str, *, standard: int) -> None:
        """Open it, and keep other runs away from it.

        Args:
            path: A file, made if it is not there, or ``-``.
            standard: The descriptor that ``-`` stands for.

        Raises:
            StreamError: It cannot be written, or another process writes to it.
        """
        self.name = path
        with told(path):
            is_new = path != STANDARD and not Path(path).exists()
            self._file = standard if path == STANDARD else os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            self.is_plain = path != STANDARD and stat.S_ISREG(os.fstat(self._file).st_mode)
            if is_new:
                files.fsync_folder(Path(path).parent)
        self.size = 0
        self.identity = str(Path(path).resolve())
        if self.is_plain:
            self._lock()
            self.size = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        """Append; a pipe that nobody reads is waited for.

        Raises:
            BrokenPipeError: Nobody will ever read it.
            StreamError: The disk is full, or the system's error.
        """
        view = memoryview(data)
        with told(self.name):
            while view:
                view = view[self._write_some(view) :]

    def sync(self) -> None:
        """Return when a file's bytes are on the disk.

        Raises:
            StreamError: They may not be.
        """
        if self.is_plain:
            with told(self.name):
                os.fsync(self._file)

    def cut(self, size: int) -> None:
        """Forget what a file has beyond so many bytes; what is in a pipe stays.

        Raises:
            StreamError: It has fewer.
        """
        if not self.is_plain:
            return
        with told(self.name):
            if os.fstat(self._file).st_size < size:
                raise StreamError(f"{self.name}: has fewer than {size:,} bytes: it was cut by somebody else")
            os.ftruncate(self._file, size)
        self.size = size

    def close(self) -> None:
        """Let go of it."""
        if self.name != STANDARD:
            with suppress(OSError):
                os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise StreamError(f"{self.name}: another process, or another output of this one, writes to it") from error
        except OSError:
            # A file system without locks: two runs into one file are for people to avoid.
            return

    def _write_some(self, view: memoryview) -> int:
        if self.is_plain:
            written = os.pwrite(self._file, view, self.size)
        else:
            try:
                written = os.write(self._file, view)
            except BlockingIOError:
                select.select([], [self._file], [])
                return 0
        self.size += written
        return written


@contextmanager
def told(name: str) -> Iterator[None]:
    """A block that reads or writes a file: the system's errors name it, but for a pipe that nobody reads any more.

    Raises:
        BrokenPipeError: As it is.
        StreamError: Any other.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if files.is_disk_full(error):
            raise StreamError(f"{name}: the disk is full; nothing of this batch counts", hint="make room") from error
        raise StreamError(f"{name}: {error.strerror or error}") from error
