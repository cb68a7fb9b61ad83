"""The parts of the demonstration's loop: what happens in the store, what must come out, the plot."""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from streamfm.cli.demonstration_loop import Books
from streamfm.cli.demonstration_plot import HEIGHT, WIDTH, Line, save_png, text_plot
from streamfm.cli.demonstration_report import check
from streamfm.cli.demonstration_stream import LiveStream
from streamfm.cli.demonstration_world import SENT_TWICE, Expected, Hour, KeyValue, SimulatedHours
from streamfm.errors import StreamError
from streamfm.labels import LabelCounts, LabelSettings, closed_labels
from streamfm.testing import OPENING, AppStore

STORE = AppStore(seed=3, users=60, apps=20, click_rate=0.3)
FOUND = LabelCounts(labelled=8, positives=3, clicks_duplicate=1)
BOOKS = Books(
    events=11,
    answers=10,
    dead_letters=1,
    shadows=10,
    labels=FOUND,
    expected=Expected(8, 3, 1),
    learnt=7,
    learnt_expected=7,
)


def lived(hours: int, *, per_hour: int = 200, seed: int = 1) -> tuple[SimulatedHours, list[Hour], list[KeyValue]]:
    world = SimulatedHours(STORE, begin=OPENING, per_hour=per_hour, first_event=5, seed=seed)
    shown, clicks = [], []
    for _ in range(hours):
        shown.append(world.hour())
        clicks += world.clicks()
    return world, shown, clicks


def table(messages: list[KeyValue]) -> pa.Table:
    rows = [json.loads(value or b"") for _, value in messages]
    return pa.Table.from_pylist([{**row, "ts": datetime.fromisoformat(row["ts"])} for row in rows])


@settings(max_examples=8, deadline=None)
@given(
    hours=st.integers(1, 4), seed=st.integers(0, 1_000), window_s=st.sampled_from([0.0, 30.0, 300.0, 900.0, 3_000.0])
)
def test_labels_are_what_the_simulation_expects(hours: int, seed: int, window_s: float) -> None:
    world, shown, clicks = lived(hours, seed=seed)
    impressions = table([message for hour in shown for message in hour.messages()])
    impressions = impressions.set_column(1, "ts", impressions["ts"].cast(pa.timestamp("us", tz="UTC")))
    with closed_labels(impressions, table(clicks), LabelSettings(window_s=window_s)) as labels:
        counts = labels.counts
    assert world.expected(window_s) == Expected(counts.labelled, counts.positives, counts.clicks_duplicate)


def test_clicks_come_once_their_time_has_come_and_some_of_them_twice() -> None:
    _, shown, clicks = lived(3)
    times = table(clicks)["ts"].to_pylist()
    assert times == sorted(times)
    assert times[-1] < shown[-1].end
    clicked = {name for hour in shown for name, is_clicked in zip(hour.ids, hour.clicked, strict=True) if is_clicked}
    sent = [key.decode() for key, _ in clicks if key]
    assert set(sent) <= clicked
    assert len(clicked) * 0.9 < len(set(sent))
    assert len(set(sent)) / SENT_TWICE <= len(sent) - len(set(sent)) <= len(set(sent)) / SENT_TWICE + 3


def test_hours_follow_each_other_and_repeat_themselves() -> None:
    world, shown, clicks = lived(2)
    assert [OPENING, shown[0].end] == [hour.begin for hour in shown]
    assert shown[1].end.timestamp() == world.clock()
    assert "e000000005" == shown[0].ids[0]
    assert 400 == len({name for hour in shown for name in hour.ids})
    assert 200 == world.shown_before(shown[0].end)
    assert not {"clicked", "true_probability"} & set(shown[0].events.column_names)
    _, again, same = lived(2)
    assert clicks == same
    assert [hour.messages() for hour in shown] == [hour.messages() for hour in again]


def test_before_anything_has_happened_nothing_is_expected() -> None:
    world = SimulatedHours(STORE, begin=OPENING, per_hour=10, first_event=0, seed=0)
    assert Expected(0, 0, 0) == world.expected(60)
    assert 0 == world.shown_before(datetime.now(UTC))


def test_books_that_balance_are_said_to() -> None:
    assert [True] * 4 == [holds for _, holds in BOOKS.lines()]
    check(BOOKS)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (replace(BOOKS, dead_letters=0), "11 events in = 10 scores"),
        (replace(BOOKS, labels=replace(FOUND, labelled=9)), "9 labels = 8 impressions"),
        (replace(BOOKS, labels=replace(FOUND, positives=2)), "2 positives = 3 with a click"),
        (replace(BOOKS, labels=replace(FOUND, clicks_duplicate=0)), "0 clicks counted once = 1"),
        (replace(BOOKS, learnt=8), "8 rows learnt in all rounds = 7"),
    ],
)
def test_books_that_do_not_balance_are_an_error(wrong: Books, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StreamError, match=words):
        check(wrong)
    assert 1 == capsys.readouterr().out.count(": NO\n")


def drawn(lines: list[Line], *, plain: bool = False) -> list[str]:
    return text_plot("the title", lines, plain=plain).plain.splitlines()


def test_a_plot_shows_each_line_where_it_is() -> None:
    rising, flat = Line("up", [0.0, 1.0, 2.0], "●", "green"), Line("level", [0.0, 0.0, 0.0], "○", "red")
    title, *rows = drawn([rising, flat])
    body, legend = rows[:HEIGHT], rows[HEIGHT:]
    assert "the title" == title
    assert ["2.000", "0.000"] == [body[0].split()[0], body[-1].split()[0]]
    curves = [row.partition("│")[2] for row in body]
    assert {WIDTH} == set(map(len, curves))
    # All columns have the rising line; it lies on the flat one at first.
    assert all("●" in {curve[column] for curve in curves} for column in range(WIDTH))
    assert "●" == curves[-1][0]
    assert "○" == curves[-1][-1]
    assert "●" == curves[0][-1]
    assert ["hour", "1", "3"] == legend[1].split()
    assert ["●", "up", "○", "level"] == legend[2].split()


def test_a_plot_for_a_terminal_without_unicode_is_ascii() -> None:
    lines = [Line(name, [1.0, value], "●", "green") for name, value in (("a", 2.0), ("b", 3.0), ("c", 4.0))]
    text = "\n".join(drawn(lines, plain=True))
    assert text.isascii()
    assert all(mark in text for mark in "*o.")


def test_a_plot_has_colours_only_where_they_are_wanted() -> None:
    plot = text_plot("t", [Line("a", [1.0, 2.0], "●", "green")])
    shown = {}
    for wanted in (True, False):
        file = io.StringIO()
        Console(file=file, force_terminal=True, no_color=not wanted, color_system="standard", width=100).print(plot)
        shown[wanted] = file.getvalue()
    assert "\x1b[32m" in shown[True]
    assert "\x1b[32m" not in shown[False]


@pytest.mark.parametrize("values", [[1.0], [0.5, 0.5]])
def test_a_plot_of_one_hour_or_one_value_is_drawn(values: list[float]) -> None:
    assert HEIGHT + 4 == len(drawn([Line("a", values, "●", "green")]))


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = [Line("a", np.linspace(0, 1, 5), "●", "green")]
    assert save_png(tmp_path / "a.png", {"one": lines, "two": lines})
    assert b"\x89PNG\r\n\x1a\n" == (tmp_path / "a.png").read_bytes()[:8]


def test_without_matplotlib_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not save_png(tmp_path / "a.png", {"one": [Line("a", [1.0, 2.0], "●", "green")]})
    assert not (tmp_path / "a.png").exists()


def test_a_worker_that_ends_is_named_with_its_last_words(tmp_path: Path) -> None:
    model = f"{tmp_path}/models/absent"
    stream = LiveStream(tmp_path, model, f"{model}/1")
    with pytest.raises(StreamError, match="has ended"), stream:
        stream.score([(b"e1", b'{"event_id": "e1"}')] * 4, version=1)
    assert "absent" in (tmp_path / "stream.log").read_text()
    with pytest.raises(StreamError, match=r"streamfm \w+: ended with exit code 1:\n"):
        wait_for_the_end(stream)


def wait_for_the_end(stream: LiveStream) -> None:
    with stream:
        while len(stream.ended()) < 2:
            time.sleep(0.1)
