"""What commands are made of: options under headings, arguments with a help, settings gathered into dataclasses.

    @settings("training", TrainSettings, {"Training": {"batch_size": "Rows of a step, at most."}})

makes the option `--batch-size` of the field: its type and default are the dataclass's, and the command is handed one
`training: TrainSettings`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from streamfm.errors import SpecError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

WIDTH = 110
CHAMPION = "champion"
"""The registry's own constant; importing the registry takes as long as everything else together."""

_OPTIONS = "Options"


class Option(click.Option):
    """An option that stands under a heading in the help."""

    def __init__(self, *arguments: Any, heading: str = _OPTIONS, **attributes: Any) -> None:
        """As `click.Option`."""
        super().__init__(*arguments, **attributes)
        self.heading = heading


class Argument(click.Argument):
    """An argument that the help explains."""

    def __init__(self, *arguments: Any, explanation: str, **attributes: Any) -> None:
        """As `click.Argument`."""
        super().__init__(*arguments, **attributes)
        self.explanation = explanation

    @property
    def record(self) -> tuple[str, str]:
        """Its line in the help."""
        name = self.human_readable_name + ("..." if self.nargs == -1 else "")
        return name if self.required else f"[{name}]", self.explanation


class Command(click.Command):
    """A command whose help explains its arguments, and keeps options under headings."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        """As `click.Command`; every command knows --debug."""
        super().__init__(*arguments, **attributes)
        self.params.append(debug_option())

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of the help that follow the description."""
        for heading, records in self.sections(context).items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def sections(self, context: click.Context) -> dict[str, list[tuple[str, str]]]:
        """The help's lines by their heading: arguments first, then options under none, then the other headings."""
        found: dict[str, list[tuple[str, str]]] = {"Arguments": [], _OPTIONS: []}
        for parameter in self.get_params(context):
            if isinstance(parameter, Argument):
                found["Arguments"].append(parameter.record)
            elif (line := parameter.get_help_record(context)) is not None:
                found.setdefault(getattr(parameter, "heading", _OPTIONS), []).append(line)
        return {heading: lines for heading, lines in found.items() if lines}


def widths(text: str) -> tuple[int, ...]:
    """The widths of layers in a text: 400,400,400, or 0 for none; click shows the function's name."""
    try:
        found = tuple(int(width) for width in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected widths with commas between, as 64,32, or 0 for none") from None
    return () if found == (0,) else found


def debug_option() -> click.Option:
    """--debug, which `main` looks for by itself, wherever it stands."""
    return Option(["--debug"], is_flag=True, expose_value=False, help="Print the whole traceback of an error.")


def option(*names: str, heading: str = _OPTIONS, **attributes: Any) -> Decorator:
    """An option under a heading."""
    return click.option(*names, cls=Option, heading=heading, **attributes)


def argument(name: str, explanation: str, **attributes: Any) -> Decorator:
    """An argument that the help explains."""
    return click.argument(name, cls=Argument, explanation=explanation, **attributes)


REFERENCE = argument("reference", "models/ctr@champion (an alias), models/ctr/3 (a version), or a bundle's folder.")
DATA_HELP = "Parquet, CSV or JSON lines: paths or globs; or one SQL query."
DATA = argument("data", DATA_HELP, nargs=-1, required=True)
JSON = option("--json", "as_json", is_flag=True, help="Print JSON.")
PRECISION = option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="Which network answers; int8 is several times as fast, and what it costs in AUC stands in the bundle.",
)


def source_of(data: tuple[str, ...]) -> str | list[str]:
    """What the DATA arguments name, as `open_source` takes it."""
    return data[0] if len(data) == 1 else list(data)


def settings(
    parameter: str,
    kind: type[Any],
    offered: Mapping[str, Mapping[str, str]],
    *,
    spellings: Mapping[str, str] | None = None,
) -> Decorator:
    """Options for fields of a dataclass; the command gets the dataclass as one argument.

    Args:
        parameter: The command's argument.
        kind: The dataclass. What it refuses is reported as wrong usage.
        offered: The help of each field that is offered, under the headings of the options.
        spellings: Other names of options, by field.
    """
    names = [name for helps in offered.values() for name in helps]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            values[parameter] = _make(kind, {name: values.pop(name) for name in names})
            return function(**values)

        for one in reversed(list(_options(kind, offered, spellings or {}))):
            call = one(call)  # type: ignore[assignment]
        return call

    return decorate


def _make(kind: type[Any], values: Mapping[str, Any]) -> Any:
    try:
        return kind(**values)
    except SpecError as error:
        raise click.UsageError(str(error)) from error


def _options(
    kind: type[Any], offered: Mapping[str, Mapping[str, str]], spellings: Mapping[str, str]
) -> Iterator[Decorator]:
    hints = get_type_hints(kind)
    defaults = {field.name: field.default for field in fields(kind)}
    for heading, helps in offered.items():
        for name, text in helps.items():
            flag, hint, default = "--" + name.replace("_", "-"), hints[name], defaults[name]
            common = {"help": text, "heading": heading}
            if hint is bool:
                both = f"{flag}/--no-{flag[2:]}" if default else flag
                yield option(both, name, is_flag=True, default=default, show_default=default, **common)
                continue
            if isinstance(default, tuple):
                default = ",".join(map(str, default))
            flags = (flag, spellings[name]) if name in spellings else (flag,)
            yield option(*flags, name, type=_type_of(hint), default=default, show_default=True, **common)


def _type_of(hint: Any) -> Any:
    """How click reads a field of this type."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return click.Choice(list(get_args(hint)))
    return widths if get_origin(hint) is tuple else hint
