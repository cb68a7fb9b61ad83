"""Does training need memory for the table only, and time in proportion to the rows?

One epoch over 10 million and over 1 million encoded rows of 26 fields (1 million table rows, 32 factors, the default
network), each in a fresh process; the short one runs before and after the long one.

Limit: 1.2 GB of anonymous memory (RssAnon) beside the mapped files, torch and Python included; time per row equal
within 20 %.

Traps: RssFile grows to the size of the mapped file and is no cost, the kernel drops it at will. A peak between two
steps is missed by reading once an epoch: a thread reads every 20 ms. A table that is updated densely is hidden by a
small one: it must have as many rows as the data would give it. Ids drawn uniformly would touch every row at once: they
are drawn as categories occur, by 1 / rank. The first run compiles kernels, and a fixed cost hides in a long run only:
all of `fit` is counted, validation and keeping the best weights included. Other work on the machine lengthens minutes
more than seconds: processor time is compared, too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from _report import report

from streamfm.data.dataset import DatasetWriter, EncodedDataset
from streamfm.encoder import Encoded, Field, Layout

FIELDS = 26
TABLE_ROWS = 1_000_000
CHUNK_ROWS = 250_000
VALID_ROWS = 50_000


def make_layout() -> Layout:
    """26 fields from 4 to some 370,000 values, as the columns of an advertisement log have."""
    sizes = np.geomspace(4, 400_000, FIELDS)
    sizes = np.maximum(4, (sizes * TABLE_ROWS / sizes.sum())).astype(int)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    fields = tuple(Field(name=f"f{index}", start=index, length=1) for index in range(FIELDS))
    nulls = starts[:-1].astype(np.int32)
    return Layout(
        fields=fields, slots=FIELDS, rows=int(starts[-1]), weighted=False, null_rows=nulls, unknown_rows=nulls + 1
    )


def write_rows(folder: Path, rows: int, layout: Layout, seed: int) -> None:
    """Rows whose categories occur as 1 / rank, and whose label depends on some of them."""
    random = np.random.default_rng(seed)
    sizes = np.diff(np.append(layout.null_rows, layout.rows)).astype(np.float32) - 2
    effects = np.random.default_rng(0).normal(size=layout.rows).astype(np.float32)
    with DatasetWriter(folder, layout) as writer:
        for start in range(0, rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, rows - start)
            ranks = np.exp(random.random((count, FIELDS), np.float32) * np.log(sizes)).astype(np.int32)
            ids = ranks + layout.null_rows + 1
            logits = effects[ids[:, :6]].sum(axis=1) - 1
            writer.append(Encoded(ids, None), random.random(count) < 1 / (1 + np.exp(-logits)))
        writer.finish()


class Peak(threading.Thread):
    """The largest RssAnon of this process while it runs."""

    def __init__(self) -> None:
        """Not begun."""
        super().__init__(daemon=True)
        self.bytes = 0
        self.over = threading.Event()

    def run(self) -> None:
        """Read until it is over."""
        while not self.over.wait(0.02):
            status = Path("/proc/self/status").read_text()
            found = re.search(r"RssAnon:\s+(\d+) kB", status)
            self.bytes = max(self.bytes, int(found.group(1)) * 1024 if found else 0)


def train(folder: Path, name: str, threads: int) -> None:
    """In a fresh process: one epoch, and its figures as a line of JSON."""
    from streamfm.model import DeepFM, ModelSettings
    from streamfm.training import TrainSettings, fit

    peak = Peak()
    peak.start()
    with EncodedDataset.open(folder / name) as rows, EncodedDataset.open(folder / "valid") as valid:
        model = DeepFM(make_layout(), ModelSettings())
        processor = time.process_time()
        done = fit(model, rows, valid, TrainSettings(max_epochs=1, threads=threads))
        peak.over.set()
        print(
            json.dumps(
                {
                    "bytes": peak.bytes,
                    "seconds_per_row": done.seconds / len(rows),
                    "processor_seconds_per_row": (time.process_time() - processor) / len(rows),
                    "rows_per_s": done.best.rows_per_s,
                    "valid_auc": done.best.valid_auc,
                    "table_update": done.table_update,
                }
            )
        )


def measure(folder: Path, name: str, threads: int) -> dict[str, float]:
    """The figures of a fresh process."""
    command = [sys.executable, __file__, "--child", name, "--folder", str(folder), "--threads", str(threads)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    print(f"{name}: {finished.stdout.strip()}", flush=True)
    return dict(json.loads(finished.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the long run; the short one has a tenth")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the rows (1.1 GB) are written; default: temporary")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train(options.folder, options.child, options.threads)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, layout = Path(name), make_layout()
        for part, rows in (("short", options.rows // 10), ("long", options.rows), ("valid", VALID_ROWS)):
            write_rows(folder / part, rows, layout, seed=rows)
        runs = [measure(folder, part, options.threads) for part in ("short", "long", "short")]
    gigabytes = runs[1]["bytes"] / 1e9
    report(f"training_memory_{options.rows}_rows", gigabytes, "GB", goal="<= 1.2", limit=1.2, higher_is_better=False)
    short = max(run["bytes"] for run in runs[::2]) / 1e9
    report(f"training_memory_{options.rows // 10}_rows", short, "GB", goal="<= 1.2", limit=1.2, higher_is_better=False)
    for name in ("seconds_per_row", "processor_seconds_per_row"):
        long, short = runs[1][name] * 1e6, (runs[0][name] + runs[2][name]) / 2 * 1e6
        report(f"training_{name}", long, "µs", limit=short, goal=">= 0.833x", higher_is_better=False)


if __name__ == "__main__":
    main()
