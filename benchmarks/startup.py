"""How long until a fresh process can score, and how long one event takes then?

A small network (16 factors, 64-32) on ten categorical features, with 100,000 users and 10,000 apps among their values:
importing what the scorer needs, loading the bundle (every file's sha256 is checked, the network is warmed up), and
`scorer.score(event)` of one dict, fp32, one thread.

Limits: 0.7 s for the import, 0.5 s for the bundle, 100 µs an event. The interpreter's own start is not counted.

Traps: files are in the page cache and kernels compiled before (the first process in a fresh environment compiles them,
once): a first process is thrown away. Best of five processes for import and loading, which other programs disturb; the
median of many for the events, no two alike, and the slowest in a hundred beside it. The garbage collector stays on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from _report import report

from streamfm.encoder import Encoder
from streamfm.encoder.vocabulary import VALUES_SCHEMA, VocabularyWriter
from streamfm.export import ExportSettings, Provenance, Sample, Trained, export_bundle
from streamfm.features import Feature, FeatureSpec, Input
from streamfm.model import DeepFM, ModelSettings

CARDINALITIES = {
    "user_id": 100_000, "app_id": 10_000, "daytime": 7, "weekday": 7, "isweekend": 2, "homework": 3, "cost": 2,
    "weather": 9, "country": 80, "city": 233,
}  # fmt: skip
SETTINGS = ModelSettings(factors=16, hidden=(64, 32))
PROCESSES, EVENTS = 5, 20_000
SPEC = FeatureSpec(
    inputs=tuple(Input(name=name, type="VARCHAR") for name in CARDINALITIES),
    features=tuple(Feature(name=name, kind="categorical") for name in CARDINALITIES),
    label="y",
)
PROCESS = """
import sys, time
began = time.perf_counter()
import streamfm.scoring
imported = time.perf_counter()
scorer = streamfm.scoring.load(sys.argv[1])
loaded = time.perf_counter()

import json, random
random.seed(1)
values = json.loads(sys.argv[2])
events = [{n: f"{n}-{random.randrange(count)}" for n, count in values.items()} for _ in range(int(sys.argv[3]))]
seconds, answers = [], []
for event in events:
    start = time.perf_counter()
    answer = scorer.score(event)
    seconds.append(time.perf_counter() - start)
    answers.append(answer)
import numpy as np
together = scorer.score(events)
assert np.abs(np.array(answers) - together).max() < 1e-6, "one event and many are not scored alike"
seconds = sorted(seconds[len(seconds) // 10 :])
print(json.dumps({
    "import_s": imported - began,
    "load_s": loaded - imported,
    "event_us": 1e6 * seconds[len(seconds) // 2],
    "slow_event_us": 1e6 * seconds[int(0.99 * len(seconds))],
}))
"""


def write_bundle(target: Path) -> None:
    """A bundle of random weights."""
    vocabulary = VocabularyWriter(target.with_name("vocabulary"))
    for name, count in CARDINALITIES.items():
        values = pa.array([f"{name}-{number}" for number in range(count)])
        batch = pa.record_batch([values, pa.array(np.ones(count, np.int64))], schema=VALUES_SCHEMA)
        vocabulary.add_values(name, count, [batch])
    vocabularies = vocabulary.finish({})
    encoder = Encoder(SPEC, vocabularies)
    rows = encoder.encode({name: pa.array([f"{name}-0", None]) for name in CARDINALITIES}, 2)
    trained = Trained(
        model=DeepFM(encoder.layout, SETTINGS),
        spec=SPEC,
        vocabularies=vocabularies,
        proof=Sample(rows=rows, labels=np.array([0, 1])),
        calibration=rows,
    )
    provenance = Provenance(name="startup", created_at=datetime(2026, 1, 1, tzinfo=UTC))
    export_bundle(target, trained, provenance, ExportSettings(int8=False))


def run(bundle: Path, events: int) -> dict[str, float]:
    """The figures of one fresh process."""
    command = [sys.executable, "-c", PROCESS, str(bundle), json.dumps(CARDINALITIES), str(events)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        write_bundle(bundle)
        run(bundle, 100)
        found = [run(bundle, EVENTS) for _ in range(PROCESSES)]
    best = {name: min(figures[name] for figures in found) for name in found[0]}
    report("startup_import", best["import_s"], "s", limit=0.7, goal="<= 0.7", higher_is_better=False)
    report("startup_load", best["load_s"], "s", limit=0.5, goal="<= 0.5", higher_is_better=False)
    report("one_event_p99", best["slow_event_us"], "µs", higher_is_better=False)
    report("one_event", best["event_us"], "µs", limit=100, goal="<= 100", higher_is_better=False)


if __name__ == "__main__":
    main()
