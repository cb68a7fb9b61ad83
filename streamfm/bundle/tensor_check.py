"""Whether .npy and .safetensors files hold what their headers say, before anything maps or allocates by them."""

from __future__ import annotations

import ast
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from streamfm.errors import BundleError

_MAX_HEADER_BYTES: Final = 16 << 20
_MAX_NPY_HEADER_BYTES: Final = 10_000
_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


def check_npy(path: Path, *, file: str) -> None:
    """Return when the array's numbers, as many as its shape says, follow its header to the end of the file.

    Raises:
        BundleError: An object array (which would be a pickle), a shape that the file does not hold, or no .npy at all.
    """
    with path.open("rb") as opened:
        try:
            shape, dtype = _read_npy_header(opened)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            raise BundleError(f"{file}: not a .npy file: {error}") from error
        start = opened.tell()
        size = opened.seek(0, io.SEEK_END)
    if dtype.hasobject:
        raise BundleError(f"{file}: holds Python objects ({dtype}), which would be pickled", hint="do not open it")
    expected = start + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise BundleError(f"{file}: {dtype} {shape} takes {expected:,} bytes, the file has {size:,}")


def _read_npy_header(opened: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type, with the file left at the first number; NumPy's own reader warns and guesses at odd headers."""
    magic = opened.read(8)
    if magic not in (b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):
        raise ValueError(f"it begins with {magic!r}")
    length = int.from_bytes(opened.read(2 if magic[6] == 1 else 4), "little")
    if length > _MAX_NPY_HEADER_BYTES:
        raise ValueError(f"a header of {length:,} bytes")
    header = ast.literal_eval(opened.read(length).decode("latin-1").strip())
    match header:
        case {"descr": descr, "fortran_order": bool(), "shape": tuple(shape)} if len(header) == 3 and len(shape) <= 32:
            if all(type(count) is int and 0 <= count < 1 << 63 for count in shape):
                return shape, np.lib.format.descr_to_dtype(descr)
    raise ValueError(f"its header is {header!r:.200}")


def check_safetensors(path: Path, *, file: str) -> None:
    """Return when every tensor of the header lies inside the file, one after the other, without gap or overlap.

    The format: https://huggingface.co/docs/safetensors/index#format

    Raises:
        BundleError: Names the tensor.
    """
    with path.open("rb") as opened:
        size = opened.seek(0, io.SEEK_END)
        opened.seek(0)
        header, start = _read_header(opened, size, file)
    spans = []
    for name, entry in header.items():
        if name != "__metadata__":
            spans.append((*_span(name, entry, file), name))
    end = 0
    for first, last, name in sorted(spans):
        if first != end:
            raise BundleError(f"{file}: tensor {name!r} begins at byte {first:,} of the data, expected {end:,}")
        end = last
    if end != size - start:
        raise BundleError(f"{file}: its tensors take {end:,} bytes, the file has {size - start:,} for them")


def _read_header(opened: BinaryIO, size: int, file: str) -> tuple[Mapping[str, object], int]:
    """The header, and where the data begins."""
    length = int.from_bytes(opened.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise BundleError(f"{file}: not a .safetensors file: a header of {length:,} bytes in a file of {size:,}")
    try:
        header = json.loads(opened.read(length).decode())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file}: not a .safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise BundleError(f"{file}: not a .safetensors file: the header is no JSON object")
    return header, 8 + length


def _span(name: str, entry: object, file: str) -> tuple[int, int]:
    """First byte and end of a tensor, when its type and shape need just that many."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(first), int(last)]} if dtype in _BITS:
            numbers = [count for count in shape[:32] if type(count) is int and 0 <= count < 1 << 63]
            if len(numbers) == len(shape) and first >= 0 and (last - first) * 8 == math.prod(numbers) * _BITS[dtype]:
                return first, last
            raise BundleError(
                f"{file}: tensor {name!r}, {dtype} {shape!r:.80}, does not fit bytes {first:,} to {last:,}"
            )
    raise BundleError(f"{file}: tensor {name!r} has an impossible header {entry!r:.80}")
