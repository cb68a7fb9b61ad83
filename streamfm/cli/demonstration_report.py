"""What the demo's last part tells: an hour a line, the table, the plot, the books."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from streamfm.cli.console import output, print_table
from streamfm.cli.demonstration_loop import Books, Lived, LivedHour
from streamfm.cli.demonstration_plot import Line, save_png, text_plot
from streamfm.errors import StreamError

NAMES = ("hour", "events", "answered by", "log loss: served", "frozen", "truth", "calibration: served", "frozen")


def tell_hour(one: LivedHour) -> None:
    """The round of an hour, when it is over."""
    took_s = sum(one.report.seconds.values())
    output.print(f"{one.hour.end:%H:%M} {one.report.outcome}: {one.report.message} ({took_s:.1f} s)")


def tell(lived: Lived, name: str, frozen: int, png: Path) -> None:
    """Table, plots and books.

    Args:
        lived: What came of it.
        name: The model.
        frozen: The version that did not learn.
        png: Where the plot goes.

    Raises:
        StreamError: The books do not balance.
    """
    print_table(NAMES, _rows(lived, name), title=f"what answered, beside {name}/{frozen} frozen, and the truth")
    rows = []
    for who, (label, *_) in _STYLES.items():
        curve = lived.curves[who]
        rows.append((label, f"{curve.mean_loss:.4f}", f"{curve.mean_calibration:.3f}"))
    print_table(("over all hours", "log loss", "calibration"), rows)
    output.print(f"{lived.closed_share:.0%} of the gap in log loss between the frozen model and the truth is closed")
    panels = {title: _lines(lived, measure) for title, measure in _PANELS.items()}
    plain = not output.encoding.lower().startswith("utf")
    for title, lines in panels.items():
        output.print()
        output.print(text_plot(title, lines, plain=plain))
    output.print()
    if save_png(png, panels):
        output.print(f"the same as a picture: {png}")
    else:
        output.print("for the same as a picture: pip install 'streamfm[plot]'")
    check(lived.books)


_PANELS = {
    "log loss by hour (lower is better)": "log_loss",
    "calibration by hour (1 is right)": "calibration",
}
_STYLES = {
    "served": ("retrained every hour", "●", "green"),
    "frozen": ("frozen", "○", "red"),
    "truth": ("true probability", "·", "blue"),
}


def _lines(lived: Lived, measure: str) -> list[Line]:
    lines = []
    for who, (label, mark, colour) in _STYLES.items():
        lines.append(Line(label, getattr(lived.curves[who], measure), mark, colour))
    return lines


def _rows(lived: Lived, name: str) -> list[tuple[str, ...]]:
    rows = []
    for place, one in enumerate(lived.hours):
        versions = Counter(answer.version for answer in one.answers.values())
        said = ", ".join(f"{name}/{version}: {count:,}" for version, count in sorted(versions.items()))
        losses = [f"{lived.curves[who].log_loss[place]:.4f}" for who in ("served", "frozen", "truth")]
        ratios = [f"{lived.curves[who].calibration[place]:.3f}" for who in ("served", "frozen")]
        rows.append((f"{one.hour.number}", f"{len(one.answers):,}", said, *losses, *ratios))
    return rows


def check(books: Books) -> None:
    """Tell of all that must be equal whether it is.

    Raises:
        StreamError: Something is not.
    """
    wrong = []
    for line, holds in books.lines():
        output.print(f"{line}: {'yes' if holds else 'NO'}")
        wrong += [] if holds else [line]
    if books.shadows < books.answers:
        output.print(f"the frozen model was too slow {books.answers - books.shadows:,} times, and was asked afterwards")
    if wrong:
        raise StreamError(f"the books do not balance: {'; '.join(wrong)}")
