"""Commands on a small simulated log; what they change, they change in a copy of one folder made by the commands."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

from streamfm.cli import main
from streamfm.testing import simulate_events

SMALL = ("--factors", "2", "--hidden", "4", "--max-epochs", "1", "--batch-size", "256", "--threads", "1")
"""A network that trains at once."""


class Done(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


Streamfm = Callable[..., Done]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a log was proposed for, and trained on twice; no test may change it.

    events.parquet and tomorrow.parquet, features.toml, models/ctr/1 (champion) and models/ctr/2.
    """
    folder = tmp_path_factory.mktemp("finished")
    events = simulate_events(3_000, seed=3, users=100, apps=20).drop_columns(["true_probability"])
    pq.write_table(events.slice(0, 2_500), folder / "events.parquet")
    pq.write_table(events.slice(2_500), folder / "tomorrow.parquet")
    with working_in(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for command in (
            ["init", "events.parquet", "--label", "clicked"],
            ["train", "events.parquet", "--out", "models/ctr", "--test", "tomorrow.parquet", *SMALL],
            ["train", "events.parquet", "--out", "models/ctr", "--seed", "1", *SMALL],
        ):
            with pytest.raises(SystemExit) as stop:
                main(command)
            assert 0 == stop.value.code
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, which is the working folder."""
    copy = Path(shutil.copytree(finished, tmp_path / "work"))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def streamfm(capfd: pytest.CaptureFixture[str]) -> Streamfm:
    """The command line, in this process."""

    def run(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        code = stop.value.code
        assert isinstance(code, int)
        return Done(code, *capfd.readouterr())

    return run


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
