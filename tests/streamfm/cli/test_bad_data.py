"""Bad input by way of the commands: a line that names the place, a hint, exit code 1, and nothing left behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from streamfm.registry import Registry

SMALL = ("--factors", "2", "--hidden", "4", "--max-epochs", "1", "--batch-size", "256", "--threads", "1")
TRAIN = ("train", "bad.parquet", "--out", "new/ctr", *SMALL)


def left(folder: Path) -> set[str]:
    """What lies in a folder and the folders in it, hidden things too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def make(query: str, path: str = "bad.parquet") -> None:
    duckdb.execute(f"COPY ({query}) TO '{path}'")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("FROM 'events.parquet' LIMIT 0", "error: bad.parquet: no rows\nhint: check the file"),
        ("SELECT * EXCLUDE clicked FROM 'events.parquet'", "error: bad.parquet: column 'clicked' not found\nhint: "),
        ("SELECT * EXCLUDE (price, rating) FROM 'events.parquet'", "column 'price', 'rating' not found\nhint: "),
        ("SELECT * REPLACE (2 AS clicked) FROM 'events.parquet'", "label 'clicked' is 2, expected 0 or 1"),
        ("SELECT * REPLACE (NULL AS clicked) FROM 'events.parquet'", "label 'clicked' is NULL"),
        (
            "SELECT * REPLACE ('no' AS clicked) FROM 'events.parquet'",
            "column 'clicked' holds VARCHAR, expected numbers",
        ),
        ("SELECT * REPLACE (1 AS clicked) FROM 'events.parquet'", "label 'clicked' is 1 in all "),
        (
            "SELECT * REPLACE ('x' AS session_seconds) FROM 'events.parquet'",
            "column 'session_seconds' holds VARCHAR: feature ",
        ),
        (
            "SELECT * REPLACE ('inf'::DOUBLE AS session_seconds) FROM 'events.parquet'",
            "column 'session_seconds' is inf",
        ),
        (
            "SELECT * REPLACE (repeat('x', 2000000) AS user_id) FROM 'events.parquet' LIMIT 9",
            "bytes of text, more than",
        ),
        ("SELECT * REPLACE (NULL::TIMESTAMP AS ts) FROM 'events.parquet'", "event time 'ts' is NULL in every row"),
    ],
    ids=lambda value: value[:48],
)
def test_rows_that_cannot_be_learnt_from(query: str, said: str, folder: Path, streamfm) -> None:
    make(query)
    before = left(folder)
    done = streamfm(*TRAIN)
    assert (1, "") == (done.code, done.out)
    assert said in done.err
    assert "Traceback" not in done.err
    assert before == left(folder)


@pytest.mark.parametrize("command", ["init", "train", "evaluate", "score"])
@pytest.mark.parametrize("data", ["bad.csv", "bad.parquet", "SELECT *, 'x' AS user_id FROM 'events.parquet'"])
def test_a_column_that_is_there_twice(command: str, data: str, folder: Path, streamfm) -> None:
    table = pq.read_table("events.parquet")
    pq.write_table(table.append_column("user_id", table["user_id"]), "bad.parquet")
    Path("bad.csv").write_text("user_id,user_id,clicked\nu1,u1,0\nu2,u2,1\n")
    before = left(folder)
    rest = {
        "init": ["--label", "clicked", "-o", "new.toml"],
        "train": ["--out", "new/ctr", *SMALL],
        "evaluate": [],
        "score": ["-o", "s.csv"],
    }
    model = ["models/ctr@champion"] if command in ("evaluate", "score") else []
    done = streamfm(command, *model, data, *rest[command])
    name = "the SQL query" if data.startswith("SELECT") else data
    assert (1, "", f"error: {name}: column 'user_id' is there twice\nhint: rename or drop one\n") == done
    assert before == left(folder)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("command", ["init", "train", "score"])
def test_a_csv_in_which_a_line_has_a_field_too_many(command: str, delimiter: str, folder: Path, streamfm) -> None:
    lines = ["user_id,app_id,clicked", "u1,a1,0", "u2,a2,a3,1", "u3,a1,1"]
    Path("bad.csv").write_text("\n".join(lines).replace(",", delimiter) + "\n")
    rest = {"init": ["--label", "clicked", "-o", "new.toml"], "train": ["--out", "new/ctr", *SMALL]}
    model = ["models/ctr@champion"] if command == "score" else []
    done = streamfm(command, *model, "bad.csv", *rest.get(command, ["-o", "s.csv"]))
    assert (1, "") == (done.code, done.out)
    header = repr(lines[0].replace(",", delimiter))
    assert (
        f"not found\nhint: it has one column, {header}: a line probably has more or fewer fields than the header"
        in done.err
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('event_time = "ts"', 'event_tim = "ts"', "unknown key 'event_tim'"),
        ("[features.hour]", "[features.price]", "error: features.toml: not valid TOML"),
        (
            'sql = "hour(ts)"',
            'sql = "hour(tss)"',
            "error: features.toml: feature 'hour': sql = 'hour(tss)': no input 'tss'\nhint: did you mean 'ts'?",
        ),
        ('label = "clicked"', "", "error: features.toml: "),
    ],
)
def test_a_specification_that_cannot_be_used(old: str, new: str, said: str, folder: Path, streamfm) -> None:
    text = Path("features.toml").read_text()
    Path("features.toml").write_text(text.replace(old, new, 1))
    before = left(folder)
    done = streamfm("train", "events.parquet", "--out", "new/ctr", *SMALL)
    assert (1, "") == (done.code, done.out)
    assert said in done.err
    assert "Traceback" not in done.err
    assert before == left(folder)


def test_a_specification_that_is_not_there(folder: Path, streamfm) -> None:
    done = streamfm("train", "events.parquet", "--out", "new/ctr", "--features", "f.toml", *SMALL)
    said = "error: f.toml: cannot be read: No such file or directory\n"
    assert (1, "", f"{said}hint: streamfm init DATA --label COLUMN proposes one\n") == done


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (20_000, r"error: \S+/training-rows: the disk is full \(.*\)\nhint: make room there; temporary files lie "),
        (
            200_000,
            r"error: new/ctr-unpublished-\w+: no room for the bundle's [\d,]+ bytes in new: .*\nhint: make room ",
        ),
    ],
    ids=["temporary folder", "registry"],
)
def test_a_full_disk_is_told_before_the_first_epoch(
    size: int, said: str, folder: Path, file_size_limit, streamfm
) -> None:
    before = left(folder)
    with file_size_limit(size):
        done = streamfm("train", "events.parquet", "--out", "new/ctr", *SMALL, "--factors", "512")
    assert (1, "") == (done.code, done.out)
    assert re.search(said, done.err), done.err
    assert "epoch" not in done.err
    assert "Traceback" not in done.err
    assert before == left(folder)


@pytest.mark.parametrize("command", ["init", "train", "evaluate", "score"])
def test_text_that_is_not_utf_8_or_a_damaged_file(command: str, folder: Path, streamfm) -> None:
    Path("latin.csv").write_bytes("user_id,clicked\nZürich,1\nBern,0\n".encode("latin-1"))
    whole = Path("events.parquet").read_bytes()
    Path("half.parquet").write_bytes(whole[: len(whole) // 2])
    before = left(folder)
    rest = {
        "init": ["--label", "clicked", "-o", "new.toml"],
        "train": ["--out", "new/ctr", *SMALL],
        "evaluate": [],
        "score": ["-o", "s.csv"],
    }
    for data in ("latin.csv", "half.parquet"):
        model = ["models/ctr@champion"] if command in ("evaluate", "score") else []
        done = streamfm(command, *model, data, *rest[command])
        assert (1, "") == (done.code, done.out)
        assert data in done.err.splitlines()[-2 if "hint: " in done.err else -1]
        assert "Traceback" not in done.err
    assert before == left(folder)


def test_a_label_that_init_cannot_find(folder: Path, streamfm) -> None:
    done = streamfm("init", "events.parquet", "--label", "click", "-o", "new.toml")
    assert (1, "") == (done.code, done.out)
    assert done.err.startswith("error: events.parquet: column 'click' not found\nhint: did you mean 'clicked'? it has ")
    assert not Path("new.toml").exists()


def test_a_bundle_that_was_changed_is_refused_by_every_command_that_serves(folder: Path, streamfm) -> None:
    path = folder / "models" / "ctr" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    for command in (["score"], ["evaluate"], ["sql"]):
        done = streamfm(*command, "models/ctr@champion", "tomorrow.parquet")
        assert (1, "") == (done.code, done.out)
        assert done.err.startswith("error: models/ctr/1: model.onnx: ")
    assert 1 == streamfm("models", "promote", "models/ctr/1", "--alias", "best").code


def test_two_commands_that_publish_at_once_get_a_version_each(folder: Path) -> None:
    command = [sys.executable, "-m", "streamfm.cli", "models", "publish"]
    bundles = ["models/ctr/1", "models/ctr/2"]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen([*command, bundle, "new/ctr"], stdout=pipe, stderr=pipe) for bundle in bundles]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [0, 0] == [process.returncode for process in processes], ends
    model = Registry("new").model("ctr")
    assert (1, 2) == model.versions
    assert dict(model.aliases)["champion"] in (1, 2)
    assert [None] * 3 == [one.error for one in Registry("new").verify()]
