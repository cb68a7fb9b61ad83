"""Ctrl-C, or SIGTERM, in the middle: what was wished for is kept, or nothing."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from streamfm.cli import main
from streamfm.registry import Registry

TRAIN = ("train", "events.parquet", "--out", "new/models/ctr", "--factors", "2", "--hidden", "4", "--batch-size", "32")
FOR_LONG = ("--max-epochs", "100000", "--plateaus", "100000", "--threads", "1")
MODEL = "models/ctr@champion"
ENDLESS = "SELECT count(*) FROM range(1000000000000) t(i) WHERE i % 7 = 3"


@pytest.fixture
def temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, in which nothing may be left."""
    place = folder / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a command, and sends a signal as soon as something holds; its exit code, and what it said."""
    # Whoever runs the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(*arguments: str, when: Callable[[str], bool], number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        source, sink = os.pipe()
        os.set_blocking(source, False)
        said: list[str] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.01) and not when(read()):
                pass
            if not ended.is_set():
                os.kill(os.getpid(), number)

        def read() -> str:
            with suppress(BlockingIOError):
                said.append(os.read(source, 1 << 16).decode())
            return "".join(said)

        watcher = threading.Thread(target=watch)
        with os.fdopen(sink, "w", buffering=1) as stderr, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            watcher.start()
            with pytest.raises(SystemExit) as stop:
                main(arguments)
        ended.set()
        watcher.join()
        text = read()
        os.close(source)
        assert isinstance(stop.value.code, int)
        return stop.value.code, text

    yield run
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_publishes_the_best_model_so_far(
    number: signal.Signals, temporary: Path, interrupted, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = interrupted(*TRAIN, *FOR_LONG, when=lambda said: "epoch   2" in said, number=number)
    assert 0 == code, said
    assert "interrupted: the best model so far is kept, that of epoch " in said
    assert capfd.readouterr().out.endswith("published as new/models/ctr/1, @champion\n")
    assert [None, None] == [one.error for one in Registry("new/models").verify()]
    assert [] == list(temporary.iterdir())


# Ctrl-C may come between the opening of a file and its being kept: Python then closes it, and warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("moment", ["encoding", "epoch   1"])
def test_interrupted_training_leaves_nothing_when_told_so(
    moment: str, folder: Path, temporary: Path, interrupted, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = interrupted(*TRAIN, *FOR_LONG, "--on-interrupt", "discard", when=lambda said: moment in said)
    assert (130, "") == (code, capfd.readouterr().out), said
    assert said.endswith("\ninterrupted\n")
    assert not (folder / "new").exists()
    assert [] == list(temporary.iterdir())


def test_termination_works_in_the_background_where_ctrl_c_is_ignored(folder: Path, interrupted) -> None:
    duckdb.execute("COPY (SELECT t.* FROM range(4000) r, 'tomorrow.parquet' t) TO 'many.parquet'")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments = ("score", MODEL, "many.parquet", "-o", "s.csv", "--threads", "1")
    begun = lambda _: bool(list(folder.glob(".s.csv.*")))  # noqa: E731
    assert (130, "interrupted\n") == interrupted(*arguments, when=begun, number=signal.SIGTERM)
    assert not Path("s.csv").exists()


def test_interrupted_scoring_leaves_the_old_file_and_no_other(folder: Path, temporary: Path, interrupted) -> None:
    duckdb.execute("COPY (SELECT t.* FROM range(4000) r, 'tomorrow.parquet' t) TO 'many.parquet'")
    Path("s.csv").write_text("old")
    arguments = ("score", MODEL, "many.parquet", "-o", "s.csv", "--threads", "1")
    assert (130, "interrupted\n") == interrupted(*arguments, when=lambda _: bool(list(folder.glob(".s.csv.*"))))
    assert "old" == Path("s.csv").read_text()
    assert [] == list(folder.glob(".*"))
    assert [] == list(temporary.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ("sql", MODEL, ENDLESS),
        ("score", MODEL, ENDLESS),
        ("evaluate", MODEL, ENDLESS),
        ("train", ENDLESS, "--out", "new/models/ctr"),
        ("init", ENDLESS, "--label", "clicked", "-o", "new.toml"),
    ],
    ids=lambda command: command[0],
)
def test_an_interrupted_query_ends_the_command(command: tuple[str, ...], temporary: Path, interrupted) -> None:
    begun = time.monotonic()
    assert (130, "interrupted\n") == interrupted(*command, when=lambda _: time.monotonic() > begun + 1)
    assert time.monotonic() < begun + 30
    assert [] == list(temporary.iterdir())
