"""What does an event on a stream cost beside the network: from JSON to columns, and from scores to JSON?

`Answering.answer` on records of Frappe's ten text fields and an event id as JSON of about 224 bytes, 2,048 a batch,
network 10 factors and 400-400-400, fp32 and int8, one thread.

Limit: onnxruntime alone on the same events, encoded before. Goals: 0.7 of its speed in fp32, 0.45 in int8,
which is about 2 µs an event for everything but network and encoder on a quiet core.

Traps: no broker, so nothing waits; the stages are those that `Answered` tells, of which `score` includes the encoder
and the network. Both sides take turns, medians are compared, the first turn is thrown away. Answers are let go of batch
by batch, as the loop does. The garbage collector stays on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from _frappe import FEATURES
from _report import report
from numpy.typing import NDArray
from sql_scoring import CHUNK_ROWS, Bare, read_events, write_bundle

from streamfm.scoring import Precision, load
from streamfm.stream.answering import Answering
from streamfm.stream.ports import Event
from streamfm.stream.settings import StreamSettings

BATCHES = 20
GOALS: dict[Precision, str] = {"fp32": ">= 0.7x", "int8": ">= 0.45x"}


def make_records(table: pa.Table) -> list[list[Event]]:
    """Batches of events as JSON."""
    rows = table.select(FEATURES).to_pylist()
    values = [json.dumps({"event_id": f"{n:012d}"} | row).encode() for n, row in enumerate(rows)]
    print(f"{statistics.mean(map(len, values)):.0f} bytes an event", flush=True)
    records = [Event("events", 0, n, 1_700_000_000_000, None, value) for n, value in enumerate(values)]
    return [records[start : start + CHUNK_ROWS] for start in range(0, len(records), CHUNK_ROWS)]


def measure(bundle: Path, precision: Precision, batches: list[list[Event]], repeats: int) -> None:
    """Print the figures of one precision."""
    scorer = load(bundle, precision=precision)
    answering = Answering(scorer, StreamSettings(event_id="event_id"), clock=time.perf_counter)
    rows = [json.loads(record.value or b"") for batch in batches for record in batch]
    bare = Bare(bundle, precision, scorer.encoder.encode(*scorer.columns(rows)))
    bare_us, stages = [], []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        expected = bare.run(threads=1)
        bare_us.append(1e6 * (time.perf_counter() - began) / len(rows))
        found, seconds = answer_all(answering, batches)
        stages.append(1e6 * seconds / len(rows))
    assert abs(found - expected) < 1e-6 * len(rows), "the stream and the network do not answer alike"
    network = statistics.median(bare_us[1:])
    whole, decode, score, encode = (statistics.median(stage[1:]) for stage in zip(*stages, strict=True))
    for name, figure in (("decode", decode), ("score", score), ("encode", encode)):
        report(f"stream_{name}_{precision}", figure, "µs/event", limit=network, higher_is_better=False)
    report(f"stream_beside_{precision}", whole - score, "µs/event", limit=network, higher_is_better=False)
    goal = GOALS[precision]
    report(f"stream_answer_{precision}", whole, "µs/event", limit=network, goal=goal, higher_is_better=False)


def answer_all(answering: Answering, batches: list[list[Event]]) -> tuple[float, NDArray[np.float64]]:
    """The sum of the scores; seconds of the whole, of decoding, scoring and encoding."""
    found, seconds = 0.0, np.zeros(4)
    for batch in batches:
        began = time.perf_counter()
        answered = answering.answer(batch, 1_700_000_000_000)
        whole = time.perf_counter() - began
        seconds += (whole, answered.decode_s, answered.score_s, answered.encode_s)
        found += float(answered.scores.sum(dtype=np.float64))
    return found, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats: int = parser.parse_args().repeats
    table, source = read_events(BATCHES * CHUNK_ROWS)
    print(f"events: {source}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle, _ = write_bundle(Path(folder) / "bundle", table)
        batches = make_records(table)
        for precision in ("fp32", "int8"):
            measure(bundle, precision, batches, repeats)


if __name__ == "__main__":
    main()
