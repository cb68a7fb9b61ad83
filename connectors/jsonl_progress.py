"""How far a run over JSON lines has come, and whether another run may go on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from connectors.jsonl_files import Input, told
from streamfm import files
from streamfm.errors import StreamError

_PROGRESS_BYTES = 1 << 16


class Progress(NamedTuple):
    """How far a run has come, as its progress file tells.

    Attributes:
        source: The input's absolute path; ``-`` for what cannot be read again.
        offset: Where the next line begins.
        digest: Of what stands right before it, see `Input.digest`.
        outputs: Bytes of each output file that belong to it, by its absolute path.
    """

    source: str
    offset: int
    digest: str
    outputs: Mapping[str, int]

    def write(self, path: Path) -> None:
        """Put it in place of what was there, on the disk.

        Raises:
            StreamError: The disk is full, or the system's error.
        """
        with told(str(path)):
            files.replace_file(path, (json.dumps(self._asdict(), indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Progress | None:
        """What a file tells; None where there is none.

        Raises:
            StreamError: It is no progress file.
        """
        try:
            with told(str(path)):
                found = cls(**json.loads(files.read_plain(path, limit=_PROGRESS_BYTES)))
                numbers = (found.offset, *found.outputs.values())
                if all(type(number) is int and number >= 0 for number in numbers):
                    return found
        except StreamError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        except (ValueError, TypeError, AttributeError):
            pass
        raise StreamError(f"{path}: is not what a run has written", hint="remove it with the outputs to begin anew")


def resumption(path: Path, source: Input, sizes: Mapping[str, int]) -> Progress:
    """Where a run goes on; nothing is changed.

    Args:
        path: The progress file, which may not be there.
        source: The input.
        sizes: Bytes that each output file holds, by its absolute path.

    Raises:
        StreamError: The input is not the one of the earlier run; an output is another, and holds something; or one is
            shorter than it was left.
    """
    done = Progress.read(path) or Progress(source.identity, 0, "", {})
    if done.source != source.identity:
        raise StreamError(
            f"{path}: is of a run over {done.source}, and this one is over {source.identity}",
            hint="choose another output for another input",
        )
    if source.is_plain and done.offset:
        _require_same(source, done)
    for name, size in sizes.items():
        if size and name not in done.outputs:
            raise StreamError(
                f"{name}: holds {size:,} bytes, and {path} does not tell whose",
                hint="choose another output, or remove it",
            )
        if size < (left := done.outputs.get(name, 0)):
            raise StreamError(
                f"{name}: has {size:,} bytes, expected {left:,} or more: it was changed since the last run",
                hint="bring it back, or remove it with its .progress file to begin anew",
            )
    return done


def _require_same(source: Input, done: Progress) -> None:
    """See that a file is the one of an earlier run, which may have grown.

    Raises:
        StreamError: It is shorter, or another.
    """
    hint = "bring the input back, or remove the outputs with their .progress file to begin anew"
    size = source.unread_bytes()
    if size < done.offset:
        raise StreamError(f"{source.name}: has {size:,} bytes, and {done.offset:,} were scored: it was cut", hint=hint)
    if source.digest(done.offset) != done.digest:
        message = f"{source.name}: is not the file of which {done.offset:,} bytes were scored, or was changed"
        raise StreamError(message, hint=hint)
