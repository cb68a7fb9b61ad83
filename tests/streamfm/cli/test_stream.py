"""`streamfm stream` and `streamfm broker` as processes: signals, several workers, exit codes, files."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import streamfm as package
from connectors.dev_broker import DevBroker
from connectors.dev_topics import append, records

MODEL = "models/ctr@champion"
TOPICS = {"events": 2, "scores": 2, "events.dead-letters": 1}
LIMIT_S = 60.0
# A group that a worker joins stands still for the session time-out less a second on this broker.
SOON = ("--session-timeout-s", "2", "--revoke-deadline-s", "0.5", "--heartbeat-interval-s", "0.5")


class Process:
    """A command that runs, and what it says."""

    def __init__(self, *arguments: str, folder: Path) -> None:
        command = [sys.executable, "-m", "streamfm.cli", *arguments]
        self.folder = folder
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def end(self, *signals: signal.Signals) -> tuple[int, str]:
        for number in signals:
            self.process.send_signal(number)
        _, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, err.decode()


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Process]]:
    """Starts a command in a folder with a model; whatever still runs at the end is killed."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(Process(*arguments, folder=folder))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        # A worker of one that was killed may still hold its pipes.
        one.process.communicate(timeout=LIMIT_S)


@pytest.fixture
def broker() -> Iterator[str]:
    with DevBroker(TOPICS) as running:
        yield running.bootstrap_servers


def events(count: int, first: int = 0) -> list[tuple[bytes | None, bytes | None]]:
    return [
        (b"%d" % n, json.dumps({"event_id": f"e{n}", "user_id": f"user-{n}"}).encode())
        for n in range(first, first + count)
    ]


def ends(where: str, *more: str) -> tuple[str, ...]:
    return ("-b", where, "--client", "confluent", "--in", "events", "--out", "scores", *SOON, *more)


def ids(found: Any) -> list[str]:
    return [json.loads(record.value)["event_id"] for record in found]


def until(ready: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not ready():
        assert time.monotonic() < deadline_s, f"not so after {LIMIT_S} s"
        time.sleep(0.05)


def test_a_file_is_scored_as_python_scores_it(folder: Path, streamfm) -> None:
    table = pq.read_table("tomorrow.parquet")
    Path("events.jsonl").write_text("".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()))
    done = streamfm("stream", MODEL, "--in", "events.jsonl", "--out", "scores.jsonl", "--keep", "user_id", "--logit")
    assert 0 == done.code, done.err
    assert f"{len(table)} scores, 0 dead letters" in done.err
    answers = [json.loads(line) for line in Path("scores.jsonl").read_text().splitlines()]
    assert table["user_id"].to_pylist() == [answer["user_id"] for answer in answers]
    np.testing.assert_allclose(package.load(MODEL).score(table), [a["score"] for a in answers], atol=1e-6)
    np.testing.assert_allclose(package.load(MODEL).logit(table), [a["logit"] for a in answers], atol=1e-5)


def test_standard_input_is_scored_to_standard_output(start) -> None:
    worker = start("stream", MODEL, "--in", "-", "--out", "-")
    out, err = worker.process.communicate(b'{"event_id": "e1"}\nnot JSON\n', timeout=LIMIT_S)
    assert 0 == worker.process.returncode, err
    (answer,) = out.splitlines()
    assert ("e1", "ctr", 1) == tuple(json.loads(answer)[name] for name in ("event_id", "model", "version"))
    assert b'"reason": "not_json"' in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number: signal.Signals, broker: str, start) -> None:
    append(broker, "events", events(100))
    worker = start("stream", MODEL, *ends(broker))
    assert 100 == len(list(records(broker, "scores", count=100, timeout_s=LIMIT_S)))
    code, err = worker.end(number)
    assert (0, True) == (code, "100 events in" in err), err
    # The next worker goes on where this one stood.
    append(broker, "events", events(1, first=100))
    worker = start("stream", MODEL, *ends(broker))
    assert {f"e{n}" for n in range(101)} == set(ids(records(broker, "scores", count=101, timeout_s=LIMIT_S)))
    code, err = worker.end(number)
    assert (0, True) == (code, "\n1 events in" in err), err


def test_brokers_that_are_away_are_waited_for(start) -> None:
    away = ("-b", "127.0.0.1:1", "--client", "confluent", "--request-timeout-s", "1", "--in", "e", "--out", "s")
    worker = start("stream", MODEL, *away)
    said = ""
    while "(2 in a row)" not in said:
        said = worker.process.stderr.readline().decode()
        assert said, "it has ended"
    assert "not open, again in 0.2 s (2 in a row): connecting to 127.0.0.1:1" in said
    code, err = worker.end(signal.SIGTERM)
    assert (0, True) == (code, "\n0 events in" in err), err


def test_signals_that_come_at_once_end_it_at_once(broker: str, start) -> None:
    worker = start("stream", MODEL, *ends(broker, "--http", "127.0.0.1:0"))
    append(broker, "events", events(1))
    list(records(broker, "scores", count=1, timeout_s=LIMIT_S))
    code, err = worker.end(*[signal.SIGTERM] * 20)
    assert code in (0, 128 + signal.SIGTERM), err


def test_workers_share_the_events_and_end_together(broker: str, start) -> None:
    append(broker, "events", events(200))
    workers = start("stream", MODEL, *ends(broker, "--workers", "2", "--report-s", "0"))
    missing = {f"e{n}" for n in range(200)}
    # The second one's coming may have some scored twice: at-least-once.
    for record in records(broker, "scores", count=1_000, timeout_s=LIMIT_S):
        missing.difference_update(ids([record]))
        if not missing:
            break
    assert set() == missing
    code, err = workers.end(signal.SIGTERM)
    assert 0 == code, err


def test_a_worker_that_cannot_go_on_ends_all(broker: str, start) -> None:
    workers = start("stream", "models/nobody@champion", *ends(broker, "--workers", "2"))
    code, err = workers.process.wait(LIMIT_S), workers.process.stderr.read().decode()
    assert 1 == code
    assert "there is no model 'nobody'" in err


def test_what_is_kept_running_tells_how_it_is(broker: str, start) -> None:
    append(broker, "events", events(10))
    worker = start("stream", MODEL, *ends(broker, "--http", "127.0.0.1:0", "--log-format", "json"))
    line = json.loads(worker.process.stderr.readline())
    while "metrics at" not in line["message"]:
        line = json.loads(worker.process.stderr.readline())
    address = line["message"].split()[2].removesuffix("/metrics,")
    list(records(broker, "scores", count=10, timeout_s=LIMIT_S))

    def get(page: str) -> str:
        try:
            with urllib.request.urlopen(f"{address}{page}", timeout=LIMIT_S) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()

    until(lambda: "streamfm_events_total 10.0" in get("/metrics"))
    # While the group settles, there may be no partitions.
    until(lambda: get("/readyz") == "ok\n")
    assert "ok\n" == get("/healthz")
    code, err = worker.end(signal.SIGTERM)
    assert 0 == code
    said = [json.loads(line)["message"] for line in err.splitlines()]
    assert "SIGTERM: draining; again to end at once" in said
    assert "10 events in" in said[-1]


def test_a_log_in_json_tells_in_json_why_it_ended(folder: Path, streamfm) -> None:
    done = streamfm("stream", MODEL, "--in", "nothing.jsonl", "--out", "-", "--log-format", "json")
    assert 1 == done.code
    line = json.loads(done.err)
    assert ("error", "nothing.jsonl: No such file or directory") == (line["level"], line["message"])


def test_a_version_that_is_promoted_answers(broker: str, folder: Path, start) -> None:
    append(broker, "events", events(10))
    worker = start("stream", MODEL, *ends(broker, "--watch-s", "0.1", "--shadow", "models/ctr/2"))
    first = json.loads(next(records(broker, "scores", count=1, timeout_s=LIMIT_S)).value)
    assert (1, 2) == (first["version"], first["shadow_version"])
    package.Registry(folder / "models").promote("ctr", 2)
    sent = 10

    def answered() -> bool:
        nonlocal sent
        append(broker, "events", events(1, first=sent))
        sent += 1
        last = list(records(broker, "scores", count=sent, timeout_s=LIMIT_S))
        return any(json.loads(record.value)["version"] == 2 for record in last)

    until(answered)
    assert 0 == worker.end(signal.SIGTERM)[0]


def test_the_broker_for_development_runs_until_it_is_told(start) -> None:
    running = start("broker", "--topics", "a:2,b")
    where = running.process.stdout.readline().decode().strip()
    append(where, "a", events(3))
    assert ["e0", "e1", "e2"] == sorted(ids(records(where, "a", count=3, timeout_s=LIMIT_S)))
    code, err = running.end(signal.SIGINT)
    assert (0, True) == (code, "keeps everything in memory" in err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--in", "nothing.jsonl", "--out", "-"), "error: nothing.jsonl: No such file or directory"),
        (("-b", "h:1", "--in", "e", "--out", "e"), "is read and written"),
        (("-b", "h:1", "--in", "e", "--out", "s", "--kafka", "acks=1"), "option 'acks' cannot be given"),
        (("--in", "-", "--out", "-", "--keep", "score"), "the answer is to repeat 'score'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(arguments: tuple[str, ...], said: str, folder: Path, streamfm) -> None:
    done = streamfm("stream", MODEL, *arguments)
    assert 1 == done.code
    assert said in done.err
    assert "Traceback" not in done.err


def test_json_lines_are_checked_and_left_alone(folder: Path, streamfm) -> None:
    Path("events.jsonl").write_text('{"event_id": "e1"}\n')
    before = sorted(folder.iterdir())
    done = streamfm("stream", MODEL, "--in", "events.jsonl", "--out", "scores.jsonl", "--check")
    assert 0 == done.code, done.out
    assert "events.jsonl: 19 bytes" in done.out
    assert 'one event: events.jsonl-0 offset 0: {"event_id":"e1"' in done.out
    Path("old.jsonl").write_text("precious\n")
    for arguments, said in (
        (("--in", "nothing.jsonl", "--out", "scores.jsonl"), "input: nothing.jsonl: No such file or directory"),
        (("--in", "events.jsonl", "--out", "nowhere/scores.jsonl"), "scores: nowhere/scores.jsonl: its folder is not"),
        (("--in", "events.jsonl", "--out", "events.jsonl"), "run: events.jsonl and events.jsonl are one file"),
        (("--in", "events.jsonl", "--out", "old.jsonl"), "old.jsonl.progress does not tell whose"),
    ):
        done = streamfm("stream", MODEL, *arguments, "--check")
        assert (1, True) == (done.code, said in done.out), done.out
    Path("old.jsonl").unlink()
    assert before == sorted(folder.iterdir())


def test_the_command_leaves_the_logs_of_its_process_as_they_were(folder: Path, streamfm) -> None:
    names = ("", "streamfm", "connectors", "kafka")
    before = [(list(logging.getLogger(name).handlers), logging.getLogger(name).level) for name in names]
    Path("events.jsonl").write_text('{"event_id": "e1"}\n')
    assert 0 == streamfm("stream", MODEL, "--in", "events.jsonl", "--out", "scores.jsonl").code
    assert before == [(list(logging.getLogger(name).handlers), logging.getLogger(name).level) for name in names]
