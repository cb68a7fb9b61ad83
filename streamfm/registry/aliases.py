"""An alias is a log of moves: each move is a folder with the next number, and the highest number holds.

    aliases/champion/00000001/move.json
    aliases/champion/00000002/move.json

A move is written apart and renamed to its number. Of two processes that rename to one number exactly one succeeds, on
network file systems too, and a reader finds whole moves only. So there is no lock that a dying process could leave
behind, a move that was computed from an older one is refused by itself, and the history is what is already there.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from streamfm import files
from streamfm.bundle.json_keys import Keys
from streamfm.errors import BundleError, RegistryError

MAX_EARLIER = 100
"""Versions that a move remembers for rolling back."""

KEPT_MOVES = 100
"""Moves that `compact` leaves."""

_FILE = "move.json"
_LIMIT = 1 << 20
_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One move of an alias.

    Attributes:
        sequence: Its number, from 1.
        version: What the alias refers to from here on.
        earlier: What rolling back returns to, the last one first to be taken.
        kind: `promote` or `rollback`.
        moved_at: ISO 8601, UTC.
        moved_by: Host and process.
    """

    sequence: int
    version: int
    earlier: tuple[int, ...]
    kind: Literal["promote", "rollback"]
    moved_at: str
    moved_by: str


class AliasLog:
    """The moves of one alias."""

    def __init__(self, folder: Path) -> None:
        """Read and write the moves in `folder`, which `append` makes."""
        self.folder = folder

    def head(self) -> Move | None:
        """The move that holds; None when the alias was never set.

        Raises:
            RegistryError: The move cannot be read.
        """
        for _ in range(_ATTEMPTS):
            sequences = self._sequences()
            if not sequences:
                return None
            for sequence in reversed(sequences):
                # One that is listed and not there was cleared away meanwhile, with all before it, or lost in a crash.
                with suppress(FileNotFoundError):
                    return self._read(sequence)
        raise RegistryError(f"{self.folder}: none of its moves has a {_FILE}")

    def moves(self) -> list[Move]:
        """The moves that are kept, oldest first."""
        moves = []
        for sequence in self._sequences():
            with suppress(FileNotFoundError):
                moves.append(self._read(sequence))
        return moves

    def append(self, move: Move) -> bool:
        """Make the move; False when another process made one with its number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{files.token()}.partial"
        temporary.mkdir()
        try:
            files.write_new(temporary / _FILE, _to_bytes(move))
            if not files.move_new(temporary, self._path(move.sequence)):
                return False
        finally:
            files.remove_tree(temporary)
        # A process that slept through a hundred moves may have found its number cleared away, and free again.
        late = self._sequences()[-1] - move.sequence >= KEPT_MOVES
        if late:
            files.remove_tree(self._path(move.sequence))
        return not late

    def compact(self) -> None:
        """Clear the oldest moves away. Rolling back does not need them: every move carries the versions before it."""
        for sequence in self._sequences()[:-KEPT_MOVES]:
            files.remove_tree(self._path(sequence))

    def _path(self, sequence: int) -> Path:
        return self.folder / f"{sequence:08d}"

    def _sequences(self) -> list[int]:
        try:
            # A hundred thousand moves are listed at every look: names only, no paths.
            return sorted(int(name) for name in os.listdir(self.folder) if name.isdigit())  # noqa: PTH208
        except FileNotFoundError:
            return []

    def _read(self, sequence: int) -> Move:
        path = self._path(sequence) / _FILE
        try:
            return _from_bytes(files.read_plain(path, limit=_LIMIT), path)
        except BundleError as error:
            raise RegistryError(error.message, hint="put the alias where it belongs by promoting a version") from error


def _to_bytes(move: Move) -> bytes:
    return (json.dumps(asdict(move), indent=2, sort_keys=True) + "\n").encode()


def _from_bytes(data: bytes, path: Path) -> Move:
    keys = Keys.parse(data, file=str(path))
    kind = keys.text("kind")
    move = Move(
        sequence=keys.integer("sequence", minimum=1),
        version=keys.integer("version", minimum=1),
        earlier=keys.integers("earlier"),
        kind="rollback" if kind == "rollback" else "promote",
        moved_at=keys.text("moved_at"),
        moved_by=keys.text("moved_by"),
    )
    keys.finish()
    return move
