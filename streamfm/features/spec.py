"""FeatureSpec: which raw columns an event has, and how each becomes a feature of the model.

A specification is a TOML file that people edit; `streamfm init` writes a first one from data. It declares the *inputs*
(raw columns, with SQL type and JSON form, in the order of positional SQL calls), the *features* made of them, and the
columns that only training reads: label, weight, group, event time, event id. docs/features.md is its reference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from streamfm.errors import SpecError
from streamfm.features import toml as spec_toml
from streamfm.features.checks import check_distinct, check_keys, check_name, check_types, hint_at
from streamfm.features.feature import Feature
from streamfm.features.inputs import Input

__all__ = ["FORMAT", "Feature", "FeatureSpec"]

FORMAT = 1
"""Of the TOML file. The defaults belong to it: whoever changes one raises it."""

Task = Literal["binary", "regression"]

_NUMERIC_FAMILIES = ("integer", "real", "boolean")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """The whole specification.

    Attributes:
        inputs: The raw columns; SQL calls, streams and dicts speak in them.
        features: The model's fields, in order.
        label: The column to learn: 0 or 1 for ``binary``, a number for ``regression``. Never an input.
        task: ``binary`` (log loss) or ``regression`` (squared error).
        weight: Optional column of sample weights, at least 0.
        group: Optional column that group AUC is taken over, such as the user.
        event_time: Optional column that orders events.
        event_id: Optional column that names an event.
        source: The file that it was read from, for errors; no part of its meaning. Empty when it was made in Python.
    """

    inputs: tuple[Input, ...]
    features: tuple[Feature, ...]
    label: str
    task: Task = "binary"
    weight: str = ""
    group: str = ""
    event_time: str = ""
    event_id: str = ""
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check what single inputs and features cannot know.

        Raises:
            SpecError: Duplicated names, a feature of an absent input or of one that its kind cannot use, features
                that share a table but not its settings, a label among the inputs.
        """
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "features", tuple(self.features))
        check_types(self, "the specification")
        self._check_columns()
        check_distinct((i.name for i in self.inputs), "input")
        check_distinct((f.name for f in self.features), "feature")
        if not self.features:
            raise SpecError("the specification has no feature", hint="add a [features.NAME] table with its kind")
        for feature in self.features:
            self._check_source_of(feature)
        self._check_tables()

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of positional calls."""
        return tuple(i.name for i in self.inputs)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the meaning (comments and layout of the TOML do not count), in hexadecimal."""
        meaning = {
            "format": FORMAT,
            **self._settings(),
            "inputs": [[i.name, i.type, i.json] for i in self.inputs],
            "features": [[f.name, f.settings()] for f in self.features],
        }
        canonical = json.dumps(meaning, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def input(self, name: str) -> Input:
        """The input of that name.

        Raises:
            KeyError: No such input.
        """
        return self._inputs_by_name[name]

    @cached_property
    def _inputs_by_name(self) -> dict[str, Input]:
        return {i.name: i for i in self.inputs}

    @classmethod
    def load(cls, path: str | Path) -> FeatureSpec:
        """The specification in a TOML file.

        Raises:
            SpecError: The file cannot be read, or is not a valid specification; names the file.
        """
        try:
            # Some editors of Windows begin a file with a byte order mark, which TOML does not know.
            text = Path(path).read_text(encoding="utf-8-sig")
        except OSError as error:
            hint = "streamfm init DATA --label COLUMN proposes one"
            raise SpecError(f"{path}: cannot be read: {error.strerror}", hint=hint) from error
        except UnicodeDecodeError as error:
            raise SpecError(f"{path}: is not text in UTF-8: {error}", hint="save it as UTF-8") from error
        return cls.from_toml(text, source=str(path))

    @classmethod
    def from_toml(cls, text: str, *, source: str = "features.toml") -> FeatureSpec:
        """The specification in a TOML text; `source` is the name used in errors.

        Raises:
            SpecError: Not valid TOML (a duplicated name among other things), unknown or missing keys, wrong values.
        """
        try:
            document = spec_toml.read(text, FORMAT)
            check_keys(document.settings, [f.name for f in fields(cls) if f.compare], "top level")
            return cls(
                inputs=tuple(Input.from_declared(name, value) for name, value in document.inputs.items()),
                features=tuple(Feature.from_declared(name, value) for name, value in document.features.items()),
                source=source,
                **document.settings,
            )
        except SpecError as error:
            raise spec_toml.named(error, source) from error.__cause__

    def blamed(self, error: SpecError) -> SpecError:
        """An error of this specification that names the file it was read from, if there is one."""
        return spec_toml.named(error, self.source) if self.source else error

    def to_toml(self, comments: Mapping[str, Sequence[str]] | None = None) -> str:
        """The specification as commented TOML; `from_toml` gives the same specification back.

        Args:
            comments: Lines to stand above a setting (key ``label``), an input (``inputs.NAME``) or a feature
                (``features.NAME``).
        """
        document = spec_toml.Document(
            settings=self._settings(),
            inputs={i.name: i.declared() for i in self.inputs},
            features={f.name: f.settings() for f in self.features},
        )
        return spec_toml.write(document, FORMAT, comments or {})

    def _settings(self) -> dict[str, Any]:
        keys = ("label", "task", "weight", "group", "event_time", "event_id")
        return {key: getattr(self, key) for key in keys if getattr(self, key)}

    def _check_columns(self) -> None:
        """The label and the columns that only training reads."""
        check_name(self.label, "label")
        for key in ("weight", "group", "event_time", "event_id"):
            if column := getattr(self, key):
                check_name(column, key)
                if column.casefold() == self.label.casefold():
                    raise SpecError(f"{key} and label are the same column {column!r}", hint=f"name another {key}")
        if self.label.casefold() in {name.casefold() for name in self.input_names}:
            hint = f"remove {self.label!r} from [inputs]"
            raise SpecError(f"label {self.label!r} is also an input: the model would be told the answer", hint=hint)

    def _check_source_of(self, feature: Feature) -> None:
        where = f"feature {feature.name!r}"
        if feature.sql:
            if feature.name.casefold() in {name.casefold() for name in self.input_names}:
                raise SpecError(f"{where} is derived by SQL but bears the name of an input", hint="rename the feature")
            return
        if feature.input not in self._inputs_by_name:
            hint = hint_at(feature.input, self.input_names, what="inputs")
            raise SpecError(f"{where} uses input {feature.input!r}, which is not declared", hint=hint)
        source = self.input(feature.input)
        got = f"input {source.name!r} is {source.type}"
        if source.is_list and feature.kind != "multivalued":
            hint = "make it multivalued, or derive one value: sql = '...'"
            raise SpecError(f"{where} is {feature.kind}, but {got}", hint=hint)
        if feature.kind == "multivalued" and not source.is_list:
            hint = "make it categorical, or derive a list: sql = '...'"
            raise SpecError(f"{where} is multivalued, but {got}", hint=hint)
        if feature.kind == "numeric" and source.family not in _NUMERIC_FAMILIES:
            hint = "make it categorical, or derive a number: sql = '...'"
            raise SpecError(f"{where} is numeric, but {got}", hint=hint)

    def _check_tables(self) -> None:
        first: dict[str, Feature] = {}
        for feature in self.features:
            other = first.setdefault(feature.table, feature)
            if other is feature:
                continue
            where = f"features {other.name!r} and {feature.name!r} share table {feature.table!r}"
            if "numeric" in (other.kind, feature.kind):
                raise SpecError(f"{where}, but a number has a table of its own", hint="name another table")
            for key in ("min_count", "hash_buckets"):
                if getattr(other, key) != getattr(feature, key):
                    got = f"{getattr(other, key)} and {getattr(feature, key)}"
                    raise SpecError(f"{where}, but their {key} are {got}", hint=f"give both the same {key}")
