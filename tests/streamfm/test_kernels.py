"""The compiled loops: the hash as published, look-up against a dict, and no GIL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfm.encoder import kernels
from streamfm.encoder.vocabulary import hash_texts

PRIME = 2654435761
INT64 = st.integers(-(2**63), 2**63 - 1)
DISPATCHERS = {name: value for name, value in vars(kernels).items() if hasattr(value, "targetoptions")}


def hash_bytes(values: list[bytes], seed: int, *, large: bool = False) -> list[int]:
    binary, text = (pa.large_binary(), pa.large_string()) if large else (pa.binary(), pa.string())
    return hash_texts(pa.array(values, binary).view(text), np.uint64(seed)).tolist()


def published_buffer(length: int) -> bytes:
    """The bytes that xxHash's own sanity check hashes."""
    generator, content = PRIME, bytearray()
    for _ in range(length):
        content.append(generator >> 24)
        generator = generator * generator % 2**32
    return bytes(content)


@pytest.mark.parametrize(
    ("length", "seed", "expected"),
    [
        (0, 0, 0xEF46DB3751D8E999),
        (0, PRIME, 0xAC75FDA2929B17EF),
        (1, 0, 0x4FCE394CC88952D8),
        (1, PRIME, 0x739840CB819FA723),
        (14, 0, 0xCFFA8DB881BC3A3D),
        (14, PRIME, 0x5B9611585EFCC9CB),
        (101, 0, 0x0EAB543384F878AD),
        (101, PRIME, 0xCAA65939306F1E21),
    ],
)
def test_the_hash_is_xxh64_by_its_published_vectors(length: int, seed: int, expected: int) -> None:
    assert [expected] == hash_bytes([published_buffer(length)], seed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0xEF46DB3751D8E999),
        ("a", 0xD24EC4F1A98C6E5B),
        ("abc", 0x44BC2CF5AD770999),
        ("Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_the_hash_of_known_texts(text: str, expected: int) -> None:
    assert [expected] == hash_texts(pa.array([text]), np.uint64(0)).tolist()


@pytest.mark.parametrize("large", [False, True])
def test_every_length_is_hashed_as_the_reference_does(large: bool) -> None:
    values = [bytes(range(7, 7 + length)) for length in range(101)]
    expected = [xxhash.xxh64_intdigest(value, seed=3) for value in values]
    assert expected == hash_bytes(values, 3, large=large)


@given(values=st.lists(st.binary(max_size=100)), seed=st.integers(0, 2**64 - 1), large=st.booleans())
def test_any_bytes_are_hashed_as_the_reference_does(values: list[bytes], seed: int, large: bool) -> None:
    expected = [xxhash.xxh64_intdigest(value, seed=seed) for value in values]
    assert expected == hash_bytes(values, seed, large=large)


@given(st.lists(st.text(), min_size=1), st.data())
def test_a_slice_has_the_hashes_of_its_part(texts: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(texts)))
    expected = [xxhash.xxh64_intdigest(text.encode(), seed=1) for text in texts[start:]]
    assert expected == hash_texts(pa.array(texts, pa.string()).slice(start), np.uint64(1)).tolist()


@given(st.lists(INT64))
def test_integers_have_the_hashes_of_their_digits(values: list[int]) -> None:
    numbers = pa.array(values, pa.int64())
    expected = hash_texts(pa.array(map(str, values), pa.string()), np.uint64(9)).tolist()
    assert expected == hash_texts(numbers, np.uint64(9)).tolist()


@pytest.mark.parametrize("value", [0, -1, 9, 10, -10, 2**63 - 1, -(2**63), -(2**63) + 1, 10**18, -(10**18)])
def test_extreme_integers_have_the_hashes_of_their_digits(value: int) -> None:
    expected = [xxhash.xxh64_intdigest(str(value).encode())]
    assert expected == hash_texts(pa.array([0, value]).slice(1), np.uint64(0)).tolist()


def slots_of(hashes: NDArray[np.uint64], capacity: int) -> NDArray[np.uint64]:
    slots = np.zeros((capacity, 2), np.uint64)
    assert kernels.fill_slots(hashes, kernels.FIRST_VALUE_ROW, slots) == -1
    return slots


def found(texts: pa.Array, slots: NDArray[np.uint64], *, buckets: int = 0, base: int = 0) -> list[int]:
    ids = np.full((len(texts), 3), -7, np.int32)
    validity, offsets, data = texts.buffers()
    kernels.find_strings(
        offsets.address,
        4,
        data.address if data is not None else 0,
        validity.address if validity is not None else 0,
        texts.offset,
        np.uint64(5),
        slots,
        buckets,
        base,
        ids,
        1,
    )
    assert (ids[:, [0, 2]] == -7).all(), "only the asked column is written"
    return ids[:, 1].tolist()


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 5000])
@pytest.mark.parametrize("rows", [1, 127, 128, 129, 1000])
def test_look_up_finds_what_a_dict_finds(count: int, rows: int) -> None:
    known = [f"value {number}" for number in range(count)]
    slots = slots_of(hash_texts(pa.array(known, pa.string()), np.uint64(5)), 16384)
    oracle = {text: row for row, text in enumerate(known, kernels.FIRST_VALUE_ROW)}
    asked = [None if number % 11 == 3 else f"value {number * 7}" for number in range(rows)]
    expected = [100 + (oracle.get(text, kernels.UNKNOWN_ROW) if text else kernels.NULL_ROW) for text in asked]
    assert expected == found(pa.array(asked, pa.string()), slots, base=100)


def test_values_whose_hashes_meet_in_one_slot_are_all_found() -> None:
    hashes = np.array([15, 31, 47, 0, 16, 63], np.uint64)
    slots = slots_of(hashes, 16)
    rows = {int(value): int(row) for value, row in slots if row}
    assert {15: 2, 31: 3, 47: 4, 0: 5, 16: 6, 63: 7} == rows


def test_a_hash_of_zero_is_a_value_like_any_other() -> None:
    slots = slots_of(np.array([0], np.uint64), 16)
    assert [0, 2] == slots[0].tolist()


def test_a_hash_that_is_there_already_is_told_by_its_index() -> None:
    slots = np.zeros((16, 2), np.uint64)
    assert kernels.fill_slots(np.array([4, 20, 4], np.uint64), 2, slots) == 2


def test_hashed_rows_are_the_remainder_of_the_hash() -> None:
    texts = ["a", "b", None, "ü"]
    expected = [2 + xxhash.xxh64_intdigest(text.encode(), seed=5) % 1000 if text else 0 for text in texts]
    assert expected == found(pa.array(texts), np.zeros((1, 2), np.uint64), buckets=1000)


@pytest.mark.parametrize(
    ("slots", "rows", "fit"),
    [
        ([[0, 0], [5, 2]], 3, True),
        ([[0, 0]], 2, True),
        ([[0, 0], [5, 3]], 3, False),
        ([[0, 0], [5, 1]], 3, False),
        ([[0, 0], [5, 2**63]], 3, False),
        ([[0, 0], [5, 2]], 4, False),
        ([[4, 3], [5, 2]], 4, False),
    ],
)
def test_slots_fit_only_a_table_whose_rows_they_hold_with_room_to_spare(
    slots: list[list[int]], rows: int, fit: bool
) -> None:
    assert kernels.slots_fit(np.array(slots, np.uint64), rows) == fit


def test_every_kernel_releases_the_gil() -> None:
    assert {"find_integers", "find_strings", "scale_numbers", "spread_lists"} <= set(DISPATCHERS)
    assert [name for name, kernel in DISPATCHERS.items() if not kernel.targetoptions.get("nogil")] == []


def test_python_runs_while_a_kernel_does() -> None:
    # Several tries: on a busy machine a thread may sleep through the others' work.
    assert any(has_python_run_beside_a_kernel() for _ in range(5))


def has_python_run_beside_a_kernel() -> bool:
    numbers = np.arange(4_000_000)
    hashes = np.empty(len(numbers), np.uint64)
    address, seed = numbers.ctypes.data, np.uint64(0)
    kernels.hash_integers(address, 0, seed, hashes[:1])
    span: list[float] = []

    def work() -> None:
        span.append(time.perf_counter())
        kernels.hash_integers(address, 0, seed, hashes)
        span.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    beats = []
    while thread.is_alive():
        beats.append(time.perf_counter())
    begin, end = span
    # With the GIL held, Python could run at the ends of the span, before and after the kernel, but not in the middle.
    return any(begin + (end - begin) / 4 < beat < end - (end - begin) / 4 for beat in beats)


def test_kernels_work_where_no_machine_code_can_be_kept(tmp_path: Path) -> None:
    source = Path(kernels.__file__).read_text(encoding="utf-8")
    (tmp_path / "kernels_copy.py").write_text(source, encoding="utf-8")
    # A file in the place of the folder stops everybody, root too.
    (tmp_path / "__pycache__").write_text("")
    code = """
import numpy as np, kernels_copy
numbers, hashes = np.array([7]), np.empty(1, np.uint64)
kernels_copy.hash_integers(numbers.ctypes.data, 0, np.uint64(0), hashes)
print(hashes[0], kernels_copy.hash_integers._cache.cache_path)
"""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_", "XDG_"))}
    environment = kept | {"HOME": os.devnull, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (f"{xxhash.xxh64_intdigest(b'7')} None\n", "") == (done.stdout, done.stderr)
