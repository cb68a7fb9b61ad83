"""Ctrl-C, or SIGTERM, in the middle: what was wished for is kept, or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from streamfm.registry import Registry

TRAIN = ("train", "events.parquet", "--out", "new/models/ctr", "--factors", "2", "--hidden", "4", "--batch-size", "32")
FOR_LONG = ("--max-epochs", "100000", "--plateaus", "100000", "--threads", "1")
MODEL = "models/ctr@champion"
# What libraries leave in the temporary folder, whatever is done with them.
_FOREIGN = {".ses", "torchinductor_root", "torchinductor_" + os.environ.get("USER", "root")}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command in a process of its own, with a temporary folder of its own."""
    (folder / "temporary").mkdir()
    command = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
               "from streamfm.cli import main; main()", *arguments]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(folder / "temporary")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """What a process says up to the line that holds a text."""
    said = ""
    assert process.stderr is not None
    while text not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


def left_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "temporary").iterdir()} - _FOREIGN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_publishes_the_best_model_so_far(number: signal.Signals, folder: Path) -> None:
    process = start(folder, *TRAIN, *FOR_LONG)
    wait_for(process, "epoch   2")
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert 0 == process.returncode, err
    assert "interrupted: the best model so far is kept, that of epoch " in err
    assert out.endswith("published as new/models/ctr/1, @champion\n")
    assert [None] == [one.error for one in Registry("new/models").verify()[:1]]
    assert set() == left_in(folder)


@pytest.mark.parametrize("moment", ["encoding", "epoch   1"])
def test_interrupted_training_leaves_nothing_when_told_so(moment: str, folder: Path) -> None:
    process = start(folder, *TRAIN, *FOR_LONG, "--on-interrupt", "discard")
    wait_for(process, moment)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (130, "") == (process.returncode, out), err
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert not (folder / "new").exists()
    assert set() == left_in(folder)


def test_interrupted_scoring_leaves_the_old_file_and_no_other(folder: Path) -> None:
    duckdb.execute("COPY (SELECT t.* FROM range(4000) r, 'tomorrow.parquet' t) TO 'many.parquet'")
    Path("s.csv").write_text("old")
    process = start(folder, "score", MODEL, "many.parquet", "-o", "s.csv", "--threads", "1")
    end = time.monotonic() + 60
    while not list(folder.glob(".s.csv.*")):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (130, "interrupted\n") == (process.returncode, err)
    assert "old" == Path("s.csv").read_text()
    assert [] == list(folder.glob(".*"))
    assert set() == left_in(folder)


def test_an_interrupted_query_ends_the_command(folder: Path) -> None:
    query = "SELECT count(*) FROM range(1000000000000) t(i) WHERE i % 7 = 3"
    process = start(folder, "sql", MODEL, f"INSTALL; {query}" if False else f"SELECT 1 AS begun; {query}")
    assert process.stdout is not None
    while "begun" not in process.stdout.readline():
        pass
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (130, "interrupted\n") == (process.returncode, err)
