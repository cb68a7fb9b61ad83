"""How many events a second does one worker score, beside the bare loop of the same client, and beside Quix Streams?

JSON events of 224 bytes, Frappe's ten text fields and an event id, in 4 partitions; network 10 factors and 400-400-400
with random weights; one process, and the broker on the same machine.

Limit: the bare loop, consume, produce, flush, commit, which passes the events on without decoding or scoring. It has
the settings that the worker gives its client (idempotence, acks=all, codecs, read_committed, batch and linger), and
commits each batch, as the worker does with full ones. Its batches are 4,096 at-least-once, and as large as the worker's
with transactions. With confluent-kafka that loop is so fast that the network alone takes longer: a second limit is the
same loop with onnxruntime in it, asked about as many rows, encoded before. Rival: Quix Streams 3.28 scoring record
by record with the same network, in an environment of its own under build/, which the first run makes (PIP_FLAGS: where
packages come from).

Traps: the sides take turns, each run is a fresh process with topics of its own for the answers, the first tenth of its
events is not measured, and medians of the rounds are compared; the ratio of each round is told. Everything is there
before a side begins, so nothing waits for events. Events have no keys: kafka-python hashes a key in Python, at the same
cost on both sides, which would flatter us (--keyed shows it). The worker checks each acknowledgement and adds headers;
the bare loop does neither. Every event must have come out, and Quix Streams' score be ours: a fast wrong one does not
count.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from _frappe import FEATURES
from _kafka import Prepared, answer, appended, fill, prepared, side, start, topics
from _report import report

from streamfm.scoring import MODEL_FILES, Scorer, load

QUIX = "quixstreams==3.28.*"
QUIX_FOLDER = Path(__file__).resolve().parent.parent / "build" / "quixstreams"
BARE_BATCH = 4_096


class Case(NamedTuple):
    """A side that is measured.

    Attributes:
        events: Of a run; more than ten seconds' worth.
        how: Fields of `_stream_side.Side`.
        limit: Beside which case; empty for a limit.
        goal: See `report`; None for what is only told.
        ceiling: Beside which other case, too: what the network leaves of the limit.
    """

    events: int
    how: dict[str, Any]
    limit: str = ""
    goal: str | None = None
    ceiling: str = ""


def kafka_python(batch: int) -> dict[str, Case]:
    """kafka-python's cases."""
    bare = {"kind": "bare", "client": "kafka-python", "commit_interval_s": 0.0}
    ours = {"kind": "ours", "client": "kafka-python"}
    # A transaction for each batch, on both sides.
    transactions = {"guarantee": "exactly-once", "batch": batch, "commit_interval_s": 0.0}
    return {
        "bare": Case(500_000, bare | {"batch": BARE_BATCH}),
        "fp32": Case(400_000, ours | {"batch": batch}, "bare", ">= 0.65x"),
        "bare_transactions": Case(300_000, bare | transactions),
        "transactions": Case(300_000, ours | transactions, "bare_transactions", ">= 0.85x"),
    }


def confluent(batch: int) -> dict[str, Case]:
    """confluent-kafka's cases."""
    bare = {"kind": "bare", "client": "confluent", "batch": BARE_BATCH}
    network = bare | {"kind": "network"}
    ours = {"kind": "ours", "client": "confluent", "batch": batch}
    two, int8 = {"threads": 2}, {"precision": "int8"}
    return {
        "bare": Case(2_000_000, bare),
        "network_fp32": Case(1_000_000, network, "bare"),
        "network_fp32_two_threads": Case(1_000_000, network | two, "bare"),
        "network_int8": Case(1_500_000, network | int8, "bare"),
        "fp32": Case(800_000, ours, "bare", ">= 0.5x", "network_fp32"),
        "fp32_two_threads": Case(800_000, ours | two, "bare", ">= 0.5x", "network_fp32_two_threads"),
        "int8": Case(1_200_000, ours | int8, "bare", ">= 0.6x", "network_int8"),
        "quix": Case(150_000, {"kind": "quix", "client": "confluent"}),
    }


def run(
    case: Case, events: str, common: Prepared, rival: dict[str, object], share: float, options: dict[str, str]
) -> dict[str, Any]:
    """One run in a fresh process."""
    count = int(case.events * share)
    with topics(common.bootstrap, events=events) as own:
        given = side(**case.how, prepared=common, topics=own, events=count, options=options)
        if case.how["kind"] == "quix":
            given |= rival
            found = answer(start("_stream_quix.py", given, python=QUIX_FOLDER / "bin" / "python"))
        else:
            found = answer(start("_stream_side.py", given))
        out = appended(common.bootstrap, [own.scores])
        if out < count or appended(common.bootstrap, [own.dead_letters]):
            raise SystemExit(f"{out} answers to {count} events, or dead letters")
    return found


def measure(client: str, cases: dict[str, Case], common: Prepared, options: argparse.Namespace) -> None:
    """Rounds of all cases, and the figures."""
    rival = rival_of(common) if "quix" in cases else {}
    found: dict[str, list[float]] = {name: [] for name in cases}
    most = max(case.events for case in cases.values())
    with topics(common.bootstrap) as filled:
        # A side stops after the batch that completes its number, and reads ahead.
        fill(common, filled.events, int(most * options.share) + 100_000, keyed=options.keyed)
        for turn in range(options.pairs):
            for name, case in cases.items():
                result = run(case, filled.events, common, rival, options.share, dict(options.kafka))
                found[name].append(result["per_second"])
                check(result, common)
                details = {key: round(value, 1) for key, value in result.items() if key != "first"}
                print(f"  round {turn + 1}, {client}, {name}: {details}", flush=True)
    for name, case in cases.items():
        if case.limit:
            tell(f"stream_{client}_{name}", found[name], found[case.limit], case.goal)
        if case.ceiling:
            tell(f"stream_{client}_{name}_against_{case.ceiling}", found[name], found[case.ceiling], None)
    if "quix" in cases:
        tell("stream_confluent_fp32_against_quix_streams", found["fp32"], found["quix"], ">= 5x")


def tell(name: str, ours: list[float], limit: list[float], goal: str | None) -> None:
    ratios = ", ".join(f"{one / other:.3f}" for one, other in zip(ours, limit, strict=True))
    print(f"  {name}: ratio of each round {ratios}")
    middle, other = statistics.median(ours), statistics.median(limit)
    report(name, middle, "events/s", limit=other, goal=goal, higher_is_better=True)


def rival_of(common: Prepared) -> dict[str, object]:
    """What Quix Streams' process is given, and its environment."""
    python = QUIX_FOLDER / "bin" / "python"
    looked = [str(python), "-c", "import quixstreams, onnxruntime"]
    if not python.exists() or subprocess.run(looked, check=False, capture_output=True).returncode:
        print(f"installing {QUIX} into {QUIX_FOLDER}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", QUIX_FOLDER], check=True)
        flags = shlex.split(os.environ.get("PIP_FLAGS", ""))
        pip = [str(python), "-m", "pip", "install", "--quiet", *flags, QUIX, "onnxruntime", "msgspec", "numpy"]
        subprocess.run(pip, check=True)
    encoder = load(common.bundle).encoder
    nulls = dict(zip(FEATURES, encoder.layout.null_rows.tolist(), strict=True))
    # Each table begins with the row of NULL and that of unknown values.
    rows = {
        name: dict(zip(values.to_pylist(), range(nulls[name] + 2, nulls[name] + 2 + len(values)), strict=True))
        for name in FEATURES
        if (values := encoder.vocabularies.values(name)["value"])
    }
    file = common.folder / "rows.json"
    file.write_text(json.dumps(rows))
    unknown = dict(zip(FEATURES, encoder.layout.unknown_rows.tolist(), strict=True))
    return {"network": common.bundle / MODEL_FILES["fp32"], "rows": file, "unknown": unknown}


def check(result: dict[str, Any], common: Prepared) -> None:
    """Stop when the rival scores otherwise than we do."""
    if "first" not in result:
        return
    scorer: Scorer = load(common.bundle)
    event = result["first"]
    ours = float(scorer.score({name: event[name] for name in event if name not in ("event_id", "score")}))
    if abs(ours - event["score"]) > 1e-6:
        raise SystemExit(f"scores differ: {ours} and {event['score']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="rounds of all sides")
    parser.add_argument("--share", type=float, default=1.0, help="of each side's number of events")
    parser.add_argument("--batch", type=int, default=4_096, help="the worker's max_batch_records")
    parser.add_argument("--client", choices=["kafka-python", "confluent"], help="one only")
    parser.add_argument("--keyed", action="store_true", help="events have keys")
    parser.add_argument(
        "--kafka",
        action="append",
        default=[],
        type=lambda text: text.split("=", 1),
        metavar="KEY=VALUE",
        help="an option of the client, for worker and bare loop; with --client",
    )
    options = parser.parse_args()
    with prepared() as common:
        for client, cases in (("kafka-python", kafka_python), ("confluent", confluent)):
            if options.client in (None, client):
                measure(client, cases(options.batch), common, options)


if __name__ == "__main__":
    main()
