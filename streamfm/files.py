"""Files that survive a crash: created whole or not at all, never through a link, in order on the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import IO

_OCCUPIED = {errno.EEXIST, errno.ENOTEMPTY}
_RESERVED_BYTES = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def token() -> str:
    """A name part that no other process has; it is never written into a model."""
    return secrets.token_hex(6)


def fsync_file(path: Path) -> None:
    """Return when the file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Return when the folder's names are on the disk, where the file system can say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no fsync of a folder and keep names in order by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def reserve(file: IO[bytes], size: int) -> None:
    """Take room for the first `size` bytes of a file: writing to a map of it then cannot meet a full disk.

    That would end the process (SIGBUS) where an error can be raised here. What the file holds stays.

    Raises:
        OSError: The disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    held = file.seek(0, os.SEEK_END)
    for start in range(held, size, _RESERVED_BYTES):
        file.write(bytes(min(_RESERVED_BYTES, size - start)))
    file.flush()


def write_new(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Create a file with these bytes, or none; unless `flush` is off, they are on the disk when it returns.

    Raises:
        FileExistsError: The name is taken; the exclusive creation is atomic on network file systems, too.
        OSError: It cannot be written, for want of room, say; names the file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if flush:
                os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Put these bytes in a file's place; a reader sees the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".{path.name}.{token()}.partial")
    try:
        write_new(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def move_new(source: Path, target: Path) -> bool:
    """Rename a folder that is not empty to a name that must be free; False when the name is taken.

    rename() of a folder fails on a target that holds something, atomically and on every POSIX file system, so two
    processes that move to one name cannot both succeed. No locks, no hard links.

    Raises:
        OSError: The rename failed for another reason.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in _OCCUPIED or isinstance(error, NotADirectoryError):
            return False
        # A network file system may repeat a rename whose answer was lost; the repetition finds no source.
        if isinstance(error, FileNotFoundError) and target.is_dir() and not source.exists():
            return True
        raise
    fsync_folder(target.parent)
    return True


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it; what another process removes meanwhile is no error."""
    while folder.is_dir() and not folder.is_symlink():
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue


def open_plain(path: Path) -> int:
    """A read-only descriptor of a plain file.

    Raises:
        OSError: It is absent, a symbolic link (ELOOP), or neither a file nor readable.
    """
    # Without O_NONBLOCK, opening a pipe that was put in a file's place would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return descriptor


def read_plain(path: Path, *, limit: int) -> bytes:
    """The bytes of a plain file of at most `limit` bytes.

    Raises:
        OSError: As `open_plain`, or the file is larger (EFBIG).
    """
    with os.fdopen(open_plain(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return data


def digest_plain(path: Path) -> tuple[str, int]:
    """The sha256 in hexadecimal and the size in bytes of a plain file, read once.

    Raises:
        OSError: As `open_plain`.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


def refresh_listing(folder: Path) -> None:
    """Make the next listing of a folder a fresh one: writing to it makes a network file system drop what it cached."""
    if folder.is_dir():
        probe = folder / f".{token()}.probe"
        probe.mkdir()
        probe.rmdir()


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, says that no more can be written here."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        # safetensors, shutil and NumPy report the system's error as text only.
        if re.search(r"No space left on device|os error 28|code: 28|\d+ requested and \d+ written", str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
