"""Options that a file and the environment may give, too: `--max-lag`, `STREAMFM_MAX_LAG`, and `max_lag` in the file.

The command line goes before the environment, that before the file, that before the default.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from streamfm.cli.commands import Decorator, option
from streamfm.features.checks import hint_at

PREFIX = "STREAMFM_"


def configurable(*names: str, **attributes: Any) -> Decorator:
    """An option that the environment and the file may give, too."""
    flag = next(name for name in names if name.startswith("--"))
    return option(*names, envvar=PREFIX + _key(flag).upper(), **attributes)


def setting(kind: type[Any], name: str, *, choices: Sequence[str] | None = None, **attributes: Any) -> Decorator:
    """The same for a field of a dataclass, with its default."""
    default = kind.__dataclass_fields__[name].default
    flag = "--" + name.removeprefix("with_").replace("_", "-")
    if isinstance(default, bool):
        return configurable(flag, name, is_flag=True, default=default, **attributes)
    shape = type(default) if choices is None else click.Choice(choices)
    return configurable(flag, name, default=default, type=shape, show_default=True, **attributes)


def each(kind: type[Any], helps: Mapping[str, str], *, heading: str) -> Decorator:
    """The same for several fields, each with its help."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name, text in reversed(list(helps.items())):
            function = setting(kind, name, heading=heading, help=text)(function)
        return function

    return decorate


def client_option(*, heading: str) -> Decorator:
    """--client: which library speaks with Kafka."""
    return configurable(
        "--client",
        type=click.Choice(["kafka-python", "confluent"]),
        default="kafka-python",
        show_default=True,
        heading=heading,
        help="The library that speaks with Kafka; confluent is the faster one.",
    )


def library_option(*, heading: str) -> Decorator:
    """--kafka KEY=VALUE: options of that library."""
    return configurable(
        "--kafka",
        "options",
        multiple=True,
        callback=pairs,
        heading=heading,
        metavar="KEY=VALUE",
        help="An option of that library, such as security_protocol=SSL; again for others.",
    )


def config_option() -> Decorator:
    """--config FILE: values for the other options."""
    return option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar=f"{PREFIX}CONFIG",
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="A TOML file with any of these options, as max_lag = 1000; tables [kafka] for the client's.",
    )


def refuse_idle(context: click.Context, names: Collection[str], reason: str) -> None:
    """Refuse options that would do nothing.

    Raises:
        UsageError: One of them was given, in any of the places; names it.
    """
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{max(parameter.opts, key=len)} does nothing {reason}", context)


def _read(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults.

    Raises:
        UsageError: No TOML, or a key that is no option; names the file and the key.
    """
    if path is None:
        return
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path}: {error}") from error
    known = {_key(max(one.opts, key=len)): one for one in context.command.params if one.envvar and one is not parameter}
    for key in document:
        if key not in known:
            raise click.UsageError(f"{path}: {key!r} is no option; {hint_at(key, known, what='options')}")
    context.default_map = {str(known[key].name): _value(known[key], value) for key, value in document.items()}


def _value(parameter: click.Parameter, value: Any) -> Any:
    """As the command line would have it: a table is several KEY=VALUE, a list is one text with commas."""
    if parameter.multiple:
        return [f"{key}={one}" for key, one in _flat(value)] if isinstance(value, dict) else [str(value)]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The entries of a table and of those in it, with dots between the keys."""
    entries: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            entries += _flat(value, f"{prefix}{key}.")
        else:
            entries.append((prefix + key, str(value).lower() if isinstance(value, bool) else value))
    return entries


def pairs(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE texts as a mapping, from all places, each key from the first that has it; click calls it."""
    found = {}
    for text in (
        *(context.lookup_default(parameter.name or "") or ()),
        *(parameter.value_from_envvar(context) or ()),
        *given,
    ):
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r}: expected KEY=VALUE", ctx=context, param=parameter)
        found[key] = value
    return found


def names(context: click.Context, parameter: click.Parameter, given: str | None) -> tuple[str, ...]:
    """Names with commas between; click calls it."""
    return tuple(text.strip() for text in (given or "").split(",") if text.strip())


def address(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, int] | None:
    """HOST:PORT, or a port of this machine; click calls it."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise click.BadParameter(f"{text!r}: expected HOST:PORT or PORT", ctx=context, param=parameter)
    return host or "127.0.0.1", int(port)


def _key(flag: str) -> str:
    return flag.partition("/")[0].removeprefix("--").replace("-", "_")
