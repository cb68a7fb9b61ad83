"""Leases: who reads a version now, so that pruning leaves it alone.

    leases/3-5f0c….json    a reader's: host, process and start; its time of change is the heartbeat
    leases/3.prune         a pruner's: it means to remove version 3

A reader writes its lease and then looks for a pruner; a pruner writes its intent and then looks for readers. Whichever
comes second sees the other, so no version goes away under a reader. Both write to the one folder before they look into
it, which makes a network file system's client forget its cached listing.

No lease needs to survive its machine, so none is flushed to the disk.

A lease of a process of this machine ends with the process, one of another machine `STALE_AFTER_S` after its last
heartbeat; clocks of machines that share a registry must agree better than that.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from streamfm import files
from streamfm.bundle.json_keys import Keys
from streamfm.errors import BundleError

STALE_AFTER_S = 600.0
HEARTBEAT_S = 60.0

Clock = Callable[[], float]

_LIMIT = 1 << 16
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A process, told from all others.

    Attributes:
        host: Its machine's name, for people.
        machine: The machine's boot and the process name space, in which `pid` means something; empty if unknown.
        pid: Its number.
        started: When the process started, in the kernel's ticks since boot; tells a number's second use. 0 if unknown.
    """

    host: str
    machine: str
    pid: int
    started: int

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        pid = os.getpid()
        return cls(host=socket.gethostname(), machine=_machine(), pid=pid, started=_started(pid) or 0)

    def is_gone(self) -> bool | None:
        """Whether the process has ended; None when only its own machine can tell."""
        if not self.machine or self.machine != _machine():
            return None
        started = _started(self.pid)
        if started is None and _exists(self.pid):
            return None
        return started != self.started


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A lease or intent as another process finds it."""

    path: Path
    version: int
    holder: Holder

    def is_live(self, now: float) -> bool:
        """Whether its process still holds it, at `now` seconds since 1970."""
        gone = self.holder.is_gone()
        if gone is not None:
            return not gone
        try:
            return now - self.path.stat().st_mtime <= STALE_AFTER_S
        except FileNotFoundError:
            return False


class LeaseBook:
    """The leases of one model's versions."""

    def __init__(
        self, folder: Path, *, clock: Clock, holder: Callable[[], Holder], heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        """Keep them in `folder`, in the name of what `holder` answers at the time."""
        # A lease outlives a change of the working directory.
        self._folder = folder.absolute()
        self._clock = clock
        self._holder = holder
        self._heartbeat_s = heartbeat_s

    def take(self, version: int) -> Lease:
        """A lease with a heartbeat. In a registry that cannot be written it is not recorded, and holds nothing."""
        path = self._folder / f"{version}-{files.token()}.json"
        data = _to_bytes(version, self._holder())
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            files.write_new(path, data, flush=False)
            os.utime(path, (self._clock(), self._clock()))
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            _logger.warning("%s cannot be written: version %d is read without a lease", self._folder, version)
            return Lease(None, version)
        beat = partial(_beat, path, data, self._clock, self._heartbeat_s)
        return Lease(path, version, beat)

    def readers(self, version: int) -> list[Held]:
        """The live leases of a version."""
        found = [self._read(path) for path in self._folder.glob(f"{version}-*.json")]
        return [held for held in found if held is not None and held.is_live(self._clock())]

    def claim(self, version: int) -> Path | None:
        """This process's intent to remove a version, to be unlinked by it; None when another process has one."""
        path = self._intent(version)
        held = self._read(path)
        if held is not None:
            if held.is_live(self._clock()):
                return None
            path.unlink(missing_ok=True)
        try:
            files.write_new(path, _to_bytes(version, self._holder()), flush=False)
            os.utime(path, (self._clock(), self._clock()))
        except FileExistsError:
            return None
        return path

    def is_claimed(self, version: int) -> bool:
        """Whether a live process means to remove a version."""
        held = self._read(self._intent(version))
        return held is not None and held.is_live(self._clock())

    def sweep(self) -> None:
        """Remove the leases and intents of processes that have ended or fallen silent."""
        for path in [*self._folder.glob("*.json"), *self._folder.glob("*.prune")]:
            held = self._read(path)
            if held is not None and not held.is_live(self._clock()):
                path.unlink(missing_ok=True)

    def _intent(self, version: int) -> Path:
        return self._folder / f"{version}.prune"

    def _read(self, path: Path) -> Held | None:
        """What a file says; None when it is gone. One that is still being written holds like a live one elsewhere."""
        try:
            return _from_bytes(path, files.read_plain(path, limit=_LIMIT))
        except FileNotFoundError:
            return None
        except BundleError:
            number = path.name.partition("-")[0].partition(".")[0]
            unknown = Holder(host="?", machine="", pid=0, started=0)
            return Held(path=path, version=int(number) if number.isdigit() else 0, holder=unknown)


class Lease:
    """Keeps a version from being pruned until it is released, collected, or its process ends. A context manager."""

    def __init__(self, path: Path | None, version: int, beat: Callable[[threading.Event], None] | None = None) -> None:
        """Hold by the lease file at `path`, which `beat` renews; a lease without a file holds nothing."""
        self.version = version
        self.is_recorded = path is not None
        ended = threading.Event()
        self._finish = weakref.finalize(self, _end, path, ended, os.getpid())
        if beat is not None:
            threading.Thread(target=beat, args=(ended,), name="streamfm-lease", daemon=True).start()

    def __enter__(self) -> Lease:
        """The lease itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self.release()

    def release(self) -> None:
        """Let the version go; a second time does nothing."""
        self._finish()


def _beat(path: Path, data: bytes, clock: Clock, heartbeat_s: float, ended: threading.Event) -> None:
    """Touch the file until the lease ends; a file that was swept while the machine slept is written again."""
    while not ended.wait(heartbeat_s):
        try:
            if not path.exists():
                files.write_new(path, data, flush=False)
            os.utime(path, (clock(), clock()))
            if ended.is_set():
                path.unlink(missing_ok=True)
        except OSError as error:
            _logger.warning("lease %s cannot be renewed: %s", path, error)


def _end(path: Path | None, ended: threading.Event, pid: int) -> None:
    ended.set()
    # A forked child inherits the object, not the lease.
    if path is not None and os.getpid() == pid:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _to_bytes(version: int, holder: Holder) -> bytes:
    return (json.dumps({"version": version, **asdict(holder)}, indent=2, sort_keys=True) + "\n").encode()


def _from_bytes(path: Path, data: bytes) -> Held:
    keys = Keys.parse(data, file=str(path))
    holder = Holder(
        host=keys.text("host"),
        machine=keys.text("machine"),
        pid=keys.integer("pid"),
        started=keys.integer("started"),
    )
    return Held(path=path, version=keys.integer("version"), holder=holder)


def _machine() -> str:
    """The boot and process name space of this process; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process of this machine started, in ticks since boot; None when it ended or is not shown to us."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field, the command in brackets, may hold anything; field 3 is the state, field 22 the start.
    state, *rest = status.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


def _exists(pid: int) -> bool:
    """Whether there is such a process that is no zombie of ours, as far as one may ask without /proc."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return not Path(f"/proc/{pid}").exists()
