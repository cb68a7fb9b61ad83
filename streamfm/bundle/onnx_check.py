"""Whether an ONNX file is safe to hand to a runtime, found without onnx: serving does not install it.

An ONNX file is a protobuf message. This walks it, as https://github.com/onnx/onnx/blob/main/onnx/onnx.proto numbers the
fields, and skips over the weights, so that a file of any size takes well under a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from streamfm.errors import BundleError

ALLOWED_DOMAINS: Final = frozenset({"", "ai.onnx", "com.microsoft"})
"""Of operators: the standard ones, and onnxruntime's own quantised ones."""

REFUSED_OPERATORS: Final = {
    "EPContext": "reads a file that the model names",
    "Loop": "may never end",
    "Scan": "may never end",
}

_MAX_DEPTH = 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Bits of an element, by TensorProto.DataType; 8 (string) has no fixed size.
_BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 8: 8, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip

_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
_TENSOR_DATA: Final = {4, 5, 6, 7, 10, 11}
_TENSOR_STRINGS: Final = 6
_PACKED: Final = {4: 4, 10: 8}

Value = int | memoryview


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFacts:
    """What a walk over a model found.

    Attributes:
        inputs: Names of the graph's inputs, those with a stored value left out.
        outputs: Names of the graph's outputs.
        operators: `domain:operator` of every node, subgraphs included; `Gemm` of the standard domain is `:Gemm`.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: frozenset[str]


@dataclass(slots=True)
class _Walk:
    """What has been seen so far, and the file's name for messages."""

    file: str
    operators: set[str] = field(default_factory=set)

    def refuse(self, what: str, *, hint: str | None = None) -> BundleError:
        return BundleError(f"{self.file}: {what}", hint=hint)


def check_onnx(data: bytes | memoryview, *, file: str) -> OnnxFacts:
    """What the model asks for and answers, when nothing in it reaches outside the file or pretends to a size.

    Args:
        data: The file's bytes.
        file: Its name, for messages.

    Raises:
        BundleError: Tensors stored outside the file, tensors larger than the file holds, operators that are not
            standard ones or are loops (also in subgraphs), functions of its own, or bytes that are no ONNX model.
            A network that is merely slow, or needs much memory for what it computes, is not recognised.
    """
    walk = _Walk(file)
    graph: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    for number, value in _fields(memoryview(data), walk):
        if number == 7:
            if graph is not None:
                raise walk.refuse("two graphs in one model")
            graph = _walk_graph(_message(value, walk), walk, depth=0)
        elif number == 8:
            _check_domain(_last_text(_message(value, walk), 1, walk), walk, what="operator set")
        elif number in (20, 25):
            kind = "training graphs" if number == 20 else "functions of its own"
            raise walk.refuse(f"the model has {kind}", hint="export it with its functions inlined, for inference only")
    if graph is None:
        raise walk.refuse("not an ONNX model: there is no graph in it")
    return OnnxFacts(inputs=graph[0], outputs=graph[1], operators=frozenset(walk.operators))


def _walk_graph(graph: memoryview, walk: _Walk, *, depth: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Check a graph; the names of its inputs and outputs."""
    if depth > _MAX_DEPTH:
        raise walk.refuse(f"graphs are nested more than {_MAX_DEPTH} deep")
    inputs: list[str] = []
    outputs: list[str] = []
    stored: set[str] = set()
    for number, value in _fields(graph, walk):
        if number == 1:
            _walk_node(_message(value, walk), walk, depth=depth)
        elif number == 5:
            stored.add(_check_tensor(_message(value, walk), walk))
        elif number == 15:
            _check_sparse(_message(value, walk), walk)
        elif number in (11, 12):
            (inputs if number == 11 else outputs).append(_last_text(_message(value, walk), 1, walk))
    return tuple(name for name in inputs if name not in stored), tuple(outputs)


def _walk_node(node: memoryview, walk: _Walk, *, depth: int) -> None:
    operator, domain = "", ""
    attributes: list[memoryview] = []
    for number, value in _fields(node, walk):
        if number == 4:
            operator = _text(value, walk)
        elif number == 7:
            domain = _text(value, walk)
            _check_domain(domain, walk, what="operator")
        elif number == 5:
            attributes.append(_message(value, walk))
    if operator in REFUSED_OPERATORS:
        raise walk.refuse(f"operator {operator}, which {REFUSED_OPERATORS[operator]}")
    walk.operators.add(f"{domain}:{operator}")
    for attribute in attributes:
        _walk_attribute(attribute, walk, depth=depth)


def _walk_attribute(attribute: memoryview, walk: _Walk, *, depth: int) -> None:
    """Check the tensors and graphs in an attribute: 5 and 10 are tensors, 6 and 11 graphs, 22 and 23 sparse tensors."""
    single: set[int] = set()
    for number, value in _fields(attribute, walk):
        # Protobuf merges a single field that occurs twice: two harmless halves could make one harmful whole.
        if number in (5, 6, 22) and number in single:
            raise walk.refuse(f"field {number} of an attribute is there twice")
        single.add(number)
        if number in (5, 10):
            _check_tensor(_message(value, walk), walk)
        elif number in (6, 11):
            _walk_graph(_message(value, walk), walk, depth=depth + 1)
        elif number in (22, 23):
            _check_sparse(_message(value, walk), walk)


def _check_sparse(sparse: memoryview, walk: _Walk) -> None:
    """Check values (1) and indices (2); the dense size that field 3 declares must be covered by the file, too."""
    dims: list[int] = []
    tensors: set[int] = set()
    for number, value in _fields(sparse, walk):
        if number in tensors:
            raise walk.refuse(f"field {number} of a sparse tensor is there twice")
        if number in (1, 2):
            tensors.add(number)
            _check_tensor(_message(value, walk), walk)
        elif number == 3:
            dims.extend(_integers(value, walk))
    if math.prod(_checked_dims(dims, "a sparse tensor", walk)) > len(sparse):
        raise walk.refuse(f"a sparse tensor declares {_product(dims)} elements, its part of the file is smaller")


def _check_tensor(tensor: memoryview, walk: _Walk) -> str:
    """The tensor's name, when its values lie in the file, as many as its dimensions say."""
    name, data_type, stored, raw = "", 0, 0, None
    dims: list[int] = []
    for number, value in _fields(tensor, walk):
        if number == _TENSOR_DIMS:
            dims.extend(_integers(value, walk))
        elif number == _TENSOR_TYPE and isinstance(value, int):
            data_type = value
        elif number == _TENSOR_NAME:
            name = _text(value, walk)
        elif number == _TENSOR_RAW:
            raw = len(_message(value, walk))
        elif number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise walk.refuse(
                f"tensor {name!r} is stored outside the file (external data)",
                hint="export the model with its weights inside; a bundle never reads a path that a model names",
            )
        elif number in _TENSOR_DATA:
            # An unpacked list and one of strings have a value each time, a packed one at most so many for its bytes.
            stored += 1 if isinstance(value, int) or number == _TENSOR_STRINGS else len(value) // _PACKED.get(number, 1)
    if data_type not in _BITS:
        raise walk.refuse(f"tensor {name!r} has data type {data_type}, which is unknown")
    count = math.prod(_checked_dims(dims, f"tensor {name!r}", walk))
    if raw is not None and raw != -(-count * _BITS[data_type] // 8):
        raise walk.refuse(f"tensor {name!r} declares {_product(dims)} elements, and has {raw:,} bytes for them")
    if raw is None and count > stored * max(1, 8 // _BITS[data_type]):
        raise walk.refuse(f"tensor {name!r} declares {_product(dims)} elements, and has {stored:,} bytes for them")
    return name


def _checked_dims(dims: list[int], what: str, walk: _Walk) -> list[int]:
    if len(dims) > 32 or any(dim >= 1 << 63 for dim in dims):
        raise walk.refuse(f"{what} has impossible dimensions {_product(dims[:32])}")
    return dims


def _product(dims: list[int]) -> str:
    return " x ".join(str(dim) for dim in dims) or "1"


def _check_domain(domain: str, walk: _Walk, *, what: str) -> None:
    if domain not in ALLOWED_DOMAINS:
        known = ", ".join(repr(name) for name in sorted(ALLOWED_DOMAINS))
        raise walk.refuse(f"{what} of domain {domain!r}", hint=f"a bundle's network uses the domains {known} only")


def _fields(message: memoryview, walk: _Walk) -> Iterator[tuple[int, Value]]:
    """Number and value of every field: an int, or the bytes of a text, list or inner message."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position, walk)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise walk.refuse("not an ONNX model: field 0")
        if wire == _VARINT:
            value, position = _varint(message, position, walk)
            yield number, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position, walk)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise walk.refuse(f"not an ONNX model: wire type {wire} of field {number}")
        if length > end - position:
            raise walk.refuse(
                f"not an ONNX model, or cut off: field {number} takes {length:,} bytes of {end - position:,}"
            )
        part = message[position : position + length]
        yield number, part if wire == _BYTES else int.from_bytes(part, "little")
        position += length


def _varint(message: memoryview, position: int, walk: _Walk) -> tuple[int, int]:
    """An integer in groups of seven bits, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise walk.refuse("not an ONNX model, or cut off inside a number")


def _integers(value: Value, walk: _Walk) -> list[int]:
    """A repeated integer: one occurrence, or a packed list."""
    if isinstance(value, int):
        return [value]
    numbers: list[int] = []
    position = 0
    while position < len(value) and len(numbers) <= 64:
        number, position = _varint(value, position, walk)
        numbers.append(number)
    return numbers


def _message(value: Value, walk: _Walk) -> memoryview:
    if isinstance(value, int):
        raise walk.refuse("not an ONNX model: a number where a message is expected")
    return value


def _text(value: Value, walk: _Walk) -> str:
    try:
        return bytes(_message(value, walk)).decode()
    except UnicodeDecodeError as error:
        raise walk.refuse(f"not an ONNX model: a name is not UTF-8: {error}") from error


def _last_text(message: memoryview, wanted: int, walk: _Walk) -> str:
    """The text in a field of a message; empty when there is none, the last one when there are several."""
    text = ""
    for number, value in _fields(message, walk):
        if number == wanted:
            text = _text(value, walk)
    return text
