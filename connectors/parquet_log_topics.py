"""A topic's folder in the event log, and its manifest: what the names of segments do not tell.

    LOG/<cluster id>/<topic>.<topic id>/
        manifest.json                    columns, and for each partition where the log begins and how far it ever came
        events-0-...-....parquet         segments
        .locks/                          one writer for each partition, one at a time for manifest and upkeep
        .readers/                        who reads now, so that no file goes away under a reader

A topic that was deleted and made anew has another id, hence a folder of its own, and its rows another `_partition`:
events@2/0 instead of events/0. Offsets of the two are never compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from connectors.jsonl_files import told
from connectors.parquet_log_schema import Kind, LogSchema
from streamfm import files
from streamfm.errors import StreamError
from streamfm.locking import FolderLock

FORMAT = 1
MANIFEST = "manifest.json"
_MANIFEST_BYTES = 16 << 20
_LOCK_WAIT_S = 30.0
_SAFE = re.compile(r"[A-Za-z0-9._=-]{1,200}")


class Identity(NamedTuple):
    """Which topic it is.

    Attributes:
        cluster: The cluster's id.
        topic: The name.
        topic_id: What tells it from an earlier topic of that name; of brokers that give none, `UNNAMED` and a number.
    """

    cluster: str
    topic: str
    topic_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionState:
    """What is known of a partition beside its segments.

    Attributes:
        begin: The first offset that the log is to have; retention moves it.
        end: How far the log had come when this was written; it may have come further.
        source: The file that it was collected from; empty for Kafka's.
        digest: Of JSON lines, what stands before its end; of Parquet, ids and times; tells the file from another one.
        digest_end: Where the digest ends: the log may have come further. None in older logs: at the end.
    """

    begin: int
    end: int
    source: str = ""
    digest: str = ""
    digest_end: int | None = None

    @property
    def digested(self) -> int:
        """Where the digest ends."""
        return self.end if self.digest_end is None else self.digest_end


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        identity: Which topic it is.
        label: How its rows call it: the name, or name@2 and so on for those made anew.
        kind: ``impressions`` or ``clicks``.
        id: The column that names the event.
        time: The column of its time, or empty.
        columns: SQL types by column, of all collectors that ever wrote here, the latest going first.
        partitions: By number.
        erased: For each erasure when, and how many rows.
    """

    identity: Identity
    label: str
    kind: Kind
    id: str
    time: str
    columns: Mapping[str, str]
    partitions: Mapping[int, PartitionState] = field(default_factory=dict)
    erased: tuple[Mapping[str, Any], ...] = ()

    @property
    def ordinal(self) -> int:
        """Of the topics of its name in this log the first, the second, ..."""
        return int(self.label.removeprefix(self.identity.topic).removeprefix("@") or 1)

    def to_bytes(self) -> bytes:
        """As JSON."""
        body = {
            "format": FORMAT,
            **self.identity._asdict(),
            "label": self.label,
            "kind": self.kind,
            "id": self.id,
            "time": self.time,
            "columns": dict(self.columns),
            "partitions": {str(number): asdict(state) for number, state in sorted(self.partitions.items())},
            "erased": list(self.erased),
        }
        return (json.dumps(body, indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Manifest:
        """From JSON.

        Raises:
            StreamError: It is none; names the file.
        """
        try:
            body = json.loads(data)
            if body["format"] != FORMAT:
                raise StreamError(f"{name}: format {body['format']}, expected {FORMAT}", hint="use a newer streamfm")
            return cls(
                identity=Identity(body["cluster"], body["topic"], body["topic_id"]),
                **{key: body[key] for key in ("label", "kind", "id", "time", "columns")},
                partitions={int(number): PartitionState(**state) for number, state in body["partitions"].items()},
                erased=tuple(body["erased"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StreamError(f"{name}: is no manifest of an event log ({error!r})") from error


class TopicFolder:
    """The folder of one topic in the log."""

    def __init__(self, path: Path) -> None:
        """Of a folder that is there."""
        self.path = path

    @property
    def manifest_path(self) -> Path:
        """Where the manifest is."""
        return self.path / MANIFEST

    def manifest(self) -> Manifest:
        """The manifest as it is now.

        Raises:
            StreamError: It is not there, or is none.
        """
        with told(str(self.manifest_path)):
            data = files.read_plain(self.manifest_path, limit=_MANIFEST_BYTES)
        return Manifest.from_bytes(data, str(self.manifest_path))

    def change(self, change: Callable[[Manifest], Manifest]) -> Manifest:
        """Put a changed manifest in place of the one that is there; a reader sees one or the other.

        Raises:
            StreamError: As `manifest`; the disk is full; or others have been changing it for half a minute.
        """
        with FolderLock(self.path / ".locks" / "manifest.lock", str(self.manifest_path), wait_s=_LOCK_WAIT_S):
            before = self.manifest()
            after = change(before)
            if after != before:
                with told(str(self.manifest_path)):
                    files.replace_file(self.manifest_path, after.to_bytes())
            return after

    def partition_lock(self, partition: int) -> FolderLock:
        """The lock of whoever writes a partition's next segments."""
        what = f"partition {partition} of {self.manifest().label} is collected already"
        return FolderLock(self.path / ".locks" / f"partition-{partition}.lock", what)

    def upkeep_lock(self) -> FolderLock:
        """The lock of whoever compacts, retains or erases."""
        return FolderLock(self.path / ".locks" / "upkeep.lock", f"{self.path.name}: upkeep is under way", wait_s=1.0)


def list_topics(log: Path) -> list[TopicFolder]:
    """The folders of all topics of a log, in the order of their names."""
    return [TopicFolder(found.parent) for found in sorted(log.glob(f"*/*/{MANIFEST}"))]


def open_topic(log: Path, identity: Identity, schema: LogSchema) -> TopicFolder:
    """The folder of a topic, made where it is not there; its manifest has all columns of the schema.

    Raises:
        StreamError: The log holds another kind of event under this name; the disk is full, or the system's error.
    """
    path = log / _safe(identity.cluster) / _safe(f"{identity.topic}.{identity.topic_id}")
    with told(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with FolderLock(log / ".lock", str(log), wait_s=_LOCK_WAIT_S):
        if not (path / MANIFEST).exists():
            _make(path, _new_manifest(log, identity, schema))
    folder = TopicFolder(path)
    folder.change(lambda manifest: _with_schema(manifest, schema, path))
    return folder


def _new_manifest(log: Path, identity: Identity, schema: LogSchema) -> Manifest:
    labels = {folder.manifest().label for folder in list_topics(log)}
    label, number = identity.topic, 1
    while label in labels:
        number += 1
        label = f"{identity.topic}@{number}"
    return Manifest(
        identity=identity, label=label, kind=schema.kind, id=schema.id, time=schema.time, columns=schema.sql
    )


def _make(path: Path, manifest: Manifest) -> None:
    with told(str(path)):
        path.mkdir(exist_ok=True)
        # The folder is a topic's once it has a manifest; without one it is empty, and made use of.
        files.replace_file(path / MANIFEST, manifest.to_bytes())
        files.fsync_folder(path.parent)
        files.fsync_folder(path.parent.parent)


def _with_schema(manifest: Manifest, schema: LogSchema, path: Path) -> Manifest:
    if manifest.kind != schema.kind:
        raise StreamError(f"{path}: holds {manifest.kind}, not {schema.kind}", hint="collect into another log")
    columns = {**schema.sql, **{name: kind for name, kind in manifest.columns.items() if name not in schema.sql}}
    return replace(manifest, id=schema.id, time=schema.time, columns=columns)


def now_text(now: datetime | None = None) -> str:
    """A time as the manifest has it."""
    return (now or datetime.now(UTC)).isoformat(timespec="seconds")


def _safe(name: str) -> str:
    if not _SAFE.fullmatch(name) or name.startswith("."):
        raise StreamError(f"{name!r} cannot name a folder of the log", hint="letters, digits, '.', '_', '=' and '-'")
    return name
