"""The compiled loops behind the encoder: XXH64, look-up, spreading of lists, scaling of numbers.

They work on addresses of Arrow buffers (NumPy views would cost more than encoding one event), release the GIL, and hold
neither Arrow nor Python objects. The hash is XXH64 as published: github.com/Cyan4973/xxHash, doc/xxhash_spec.md.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

import math

import numpy as np
from numba import njit

from streamfm.encoder.intrinsics import float64_of, load_8, load_32, load_64, prefetch

NULL_ROW = 0
UNKNOWN_ROW = 1
FIRST_VALUE_ROW = 2

MAX_WEIGHT = 1e6
"""Scaled numbers are clipped to this, so that no input can make a score infinite."""

_BLOCK = 128
"""Values are hashed, then looked up, so many at a time: their cache misses overlap, their hashes stay in L1."""

_CACHED_SLOTS = 4096
"""Slots of a vocabulary that a core's cache holds anyway."""

_MAX_DIGITS = 20
"""Of an int64 with its sign."""

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


# Compiled into their callers, so that a fresh process has only the callers to load from the cache.
_inner = njit(nogil=True)


# Types are taken at the first call, not declared: eager signatures would cost every import 0.3 s. Callers pass
# addresses and counts as int, seeds as np.uint64; addresses become uint64 first, since int64 + uint64 is a float64.
def _kernel(function):
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # No folder to keep machine code in (a read-only container): compiled in every process instead.
        return njit(nogil=True)(function)


@_inner
def _rotate(value, bits):
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@_inner
def _round(accumulator, lane):
    return _rotate(accumulator + lane * _P2, 31) * _P1


@_inner
def _merge(accumulator, lane):
    return (accumulator ^ _round(np.uint64(0), lane)) * _P1 + _P4


@_inner
def xxh64(address, length, seed):
    """XXH64 of `length` bytes at `address`."""
    end = address + np.uint64(length)
    if length >= 32:
        one, two = seed + _P1 + _P2, seed + _P2
        three, four = seed + np.uint64(0), seed - _P1
        while address + np.uint64(32) <= end:
            one = _round(one, load_64(address))
            two = _round(two, load_64(address + np.uint64(8)))
            three = _round(three, load_64(address + np.uint64(16)))
            four = _round(four, load_64(address + np.uint64(24)))
            address += np.uint64(32)
        value = _rotate(one, 1) + _rotate(two, 7) + _rotate(three, 12) + _rotate(four, 18)
        value = _merge(_merge(_merge(_merge(value, one), two), three), four)
    else:
        value = seed + _P5
    value += np.uint64(length)
    while address + np.uint64(8) <= end:
        value = _rotate(value ^ _round(np.uint64(0), load_64(address)), 27) * _P1 + _P4
        address += np.uint64(8)
    if address + np.uint64(4) <= end:
        value = _rotate(value ^ (np.uint64(load_32(address)) * _P1), 23) * _P2 + _P3
        address += np.uint64(4)
    while address < end:
        value = _rotate(value ^ (np.uint64(load_8(address)) * _P5), 11) * _P1
        address += np.uint64(1)
    value = (value ^ (value >> np.uint64(33))) * _P2
    value = (value ^ (value >> np.uint64(29))) * _P3
    return value ^ (value >> np.uint64(32))


@_inner
def _is_null(validity, index):
    """Whether Arrow's validity bitmap at address `validity` (0: no bitmap) says NULL."""
    if validity == 0:
        return False
    return (load_8(np.uint64(validity + (index >> 3))) >> np.uint8(index & 7)) & 1 == 0


@_inner
def _offset(address, width):
    """An Arrow offset of 4 or 8 bytes."""
    return np.uint64(load_32(address)) if width == 4 else load_64(address)


@_inner
def _hash_strings(offsets, width, data, start, count, seed, hashes):
    position = np.uint64(offsets + start * width)
    begin = _offset(position, width)
    for index in range(count):
        position += np.uint64(width)
        end = _offset(position, width)
        hashes[index] = xxh64(np.uint64(data) + begin, np.int64(end - begin), seed)
        begin = end


@_inner
def _hash_integers(values, start, count, seed, digits, hashes):
    address = np.uint64(digits.ctypes.data)
    for index in range(count):
        value = np.int64(load_64(np.uint64(values + (start + index) * 8)))
        # Two's complement: also right for -2**63, whose magnitude no int64 holds.
        rest = np.uint64(value) if value >= 0 else ~np.uint64(value) + np.uint64(1)
        first = _MAX_DIGITS
        while True:
            first -= 1
            quotient = rest // np.uint64(10)
            digits[first] = np.uint8(rest - quotient * np.uint64(10)) + np.uint8(48)
            rest = quotient
            if rest == 0:
                break
        if value < 0:
            first -= 1
            digits[first] = np.uint8(45)
        hashes[index] = xxh64(address + np.uint64(first), _MAX_DIGITS - first, seed)


@_inner
def _look_up(hashes, count, validity, start, slots, buckets, base, ids, first, column):
    """Write ``base + row`` of `count` hashes into rows `first`, `first + 1`, … of a column of `ids`."""
    mask = np.uint64(slots.shape[0] - 1)
    if buckets == 0 and slots.shape[0] > _CACHED_SLOTS:
        address = np.uint64(slots.ctypes.data)
        for index in range(count):
            prefetch(address + ((hashes[index] & mask) << np.uint64(4)))
    for index in range(count):
        value = hashes[index]
        row = np.int64(UNKNOWN_ROW)
        if _is_null(validity, start + index):
            row = np.int64(NULL_ROW)
        elif buckets != 0:
            row = np.int64(value % np.uint64(buckets)) + FIRST_VALUE_ROW
        else:
            slot = value & mask
            while slots[slot, 1] != 0:
                if slots[slot, 0] == value:
                    row = np.int64(slots[slot, 1])
                    break
                slot = (slot + np.uint64(1)) & mask
        ids[first + index, column] = base + row


@_kernel
def hash_strings(offsets, width, data, start, seed, hashes):
    """XXH64 of Arrow strings `start`, `start + 1`, …, whose offsets are `width` (4 or 8) bytes wide."""
    _hash_strings(offsets, width, data, start, len(hashes), seed, hashes)


@_kernel
def hash_integers(values, start, seed, hashes):
    """XXH64 of the decimal digits of int64 values: the hash of the same number written as a string."""
    _hash_integers(values, start, len(hashes), seed, np.empty(_MAX_DIGITS, np.uint8), hashes)


@_kernel
def find_strings(offsets, width, data, validity, start, seed, slots, buckets, base, ids, column):
    """Write ``base + row`` of every Arrow string into a column of `ids`.

    Args:
        offsets: Address of the strings' offsets, `width` bytes wide.
        width: 4 or 8.
        data: Address of the strings' bytes.
        validity: Address of Arrow's validity bitmap, 0 for none.
        start: The array's offset.
        seed: Of the table's hash, np.uint64.
        slots: Open addressing, uint64 [capacity, 2] of (hash, row); capacity is a power of two, row 0 means free.
        buckets: When not 0, rows come from the hash alone and `slots` is not read.
        base: Number of the table's first row.
        ids: int32 [B, S], written in place.
        column: Which column of `ids`.
    """
    hashes = np.empty(_BLOCK, np.uint64)
    for first in range(0, ids.shape[0], _BLOCK):
        count = min(_BLOCK, ids.shape[0] - first)
        _hash_strings(offsets, width, data, start + first, count, seed, hashes)
        _look_up(hashes, count, validity, start + first, slots, buckets, base, ids, first, column)


@_kernel
def find_integers(values, validity, start, seed, slots, buckets, base, ids, column):
    """The same as `find_strings` for int64 values at address `values`, each standing for its digits."""
    hashes, digits = np.empty(_BLOCK, np.uint64), np.empty(_MAX_DIGITS, np.uint8)
    for first in range(0, ids.shape[0], _BLOCK):
        count = min(_BLOCK, ids.shape[0] - first)
        _hash_integers(values, start + first, count, seed, digits, hashes)
        _look_up(hashes, count, validity, start + first, slots, buckets, base, ids, first, column)


@_kernel
def fill_slots(hashes, first_row, slots):
    """Enter hashes as rows `first_row`, `first_row + 1`, …; returns the index of a hash already there, or -1."""
    mask = np.uint64(slots.shape[0] - 1)
    for index in range(len(hashes)):
        slot = hashes[index] & mask
        while slots[slot, 1] != 0:
            if slots[slot, 0] == hashes[index]:
                return index
            slot = (slot + np.uint64(1)) & mask
        slots[slot, 0] = hashes[index]
        slots[slot, 1] = np.uint64(first_row + index)
    return -1


@_kernel
def slots_fit(slots, rows):
    """Whether as many slots are taken as a table of so many rows has values, by its rows, and some are free."""
    taken = 0
    for slot in range(slots.shape[0]):
        row = slots[slot, 1]
        if row != 0:
            taken += 1
            if row < FIRST_VALUE_ROW or row >= np.uint64(rows):
                return False
    return taken == rows - FIRST_VALUE_ROW and taken < slots.shape[0]


@_kernel
def spread_lists(offsets, width, validity, start, rows, mean, base, ids, weights, column, length):
    """Write each list's first `length` values into the columns from `column` on, padded with weight 0.

    Args:
        offsets: Address of the list offsets, `width` (4 or 8) bytes wide, relative to `rows`' start.
        width: 4 or 8.
        validity: Address of the lists' validity bitmap, 0 for none.
        start: The list array's offset.
        rows: int32 [values], numbers in the fused table of all values of these lists.
        mean: Weights 1/n when true, 1 otherwise.
        base: The table's NULL row.
        ids: int32 [B, S], written in place.
        weights: float32 [B, S], written in place.
        column: First column of the field.
        length: Its number of columns.
    """
    origin = np.int64(0)
    for index in range(ids.shape[0] + 1):
        position = np.uint64(offsets + (start + index) * width)
        end = np.int64(_offset(position, width))
        if index == 0:
            origin = end
            begin = end
            continue
        row = index - 1
        kept = min(end - begin, length)
        missing = _is_null(validity, start + row)
        if missing:
            kept = 0
        weight = np.float32(1.0 / kept) if mean and kept > 0 else np.float32(1.0)
        for k in range(length):
            ids[row, column + k] = rows[begin - origin + k] if k < kept else base
            weights[row, column + k] = weight if k < kept else np.float32(0.0)
        if missing:
            weights[row, column] = np.float32(1.0)
        begin = end


@_kernel
def scale_numbers(values, integers, validity, start, logarithm, mean, deviation, base, ids, weights, column):
    """Write int64 or float64 values as weights of the value's slot; what is no number as the NULL row with weight 1."""
    for index in range(ids.shape[0]):
        bits = load_64(np.uint64(values + (start + index) * 8))
        value = np.float64(np.int64(bits)) if integers else float64_of(bits)
        if _is_null(validity, start + index) or not math.isfinite(value):
            ids[index, column] = base + NULL_ROW
            weights[index, column] = np.float32(1.0)
            continue
        if logarithm:
            value = math.copysign(math.log1p(abs(value)), value)
        scaled = (value - mean) / deviation
        ids[index, column] = base + FIRST_VALUE_ROW
        weights[index, column] = np.float32(min(max(scaled, -MAX_WEIGHT), MAX_WEIGHT))
