"""Room on the disk for a bundle, held while the model is trained: a disk that is full at the end would waste hours."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from streamfm import files
from streamfm.encoder.vocabulary import Vocabularies
from streamfm.errors import BundleError

if TYPE_CHECKING:
    from streamfm.model import DeepFM

_REST_BYTES = 1 << 16
"""Headers, graphs without their weights, features.toml and the manifest, with room to spare."""
_STEPS_BYTES = 12
"""Of a table's row: how often and when training last saw it."""
_MOMENTS = 2


def bundle_sizes(model: DeepFM, vocabularies: Vocabularies, *, int8: bool, average: bool) -> list[int]:
    """Bytes of the files of the bundle that the model will become, none of them too low.

    Args:
        model: Not yet trained.
        vocabularies: In their folder.
        int8: Whether there will be a quantised network, too; it holds the table as it is.
        average: Whether training keeps the raw weights besides those that are served.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    state = (_MOMENTS + average) * weights + _STEPS_BYTES * len(model.table)
    networks = [weights] * (1 + int8)
    values = [path.stat().st_size for path in sorted(vocabularies.folder.iterdir())]
    return [_REST_BYTES + size for size in (weights + state, *networks)] + values


@contextmanager
def room_held(out: Path, sizes: Sequence[int]) -> Iterator[None]:
    """Holds room for files of these sizes on the disk of a bundle, in nameless files; inside `with`.

    Raises:
        BundleError: There is not so much, or its folder cannot be written to.
    """
    with ExitStack() as held:
        try:
            for size in sizes:
                file = held.enter_context(tempfile.TemporaryFile(dir=out.parent))
                files.reserve(file, size)
        except OSError as error:
            # Some network file systems know no reservation.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                message = f"{out}: no room for the bundle's {sum(sizes):,} bytes in {out.parent}: {error.strerror}"
                raise BundleError(message, hint="make room there, or write the bundle to another disk") from error
        yield
