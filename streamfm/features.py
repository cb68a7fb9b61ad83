"""FeatureSpec: which raw columns an event has, and how each becomes a feature of the model.

A specification is a TOML file that people edit; `streamfm init` writes a first one from data. It declares the *inputs*
(raw columns, with SQL type and JSON form, in the order of positional SQL calls), the *features* made of them, and the
columns that only training reads: label, weight, group, event time, event id.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from streamfm.errors import SpecError

FORMAT = 1
MAX_NAME_LENGTH = 128
MAX_SLOTS_PER_FEATURE = 1024
MAX_HASH_BUCKETS = 2**30

Kind = Literal["categorical", "numeric", "multivalued"]
Transform = Literal["none", "standard", "log1p", "quantile"]
Pooling = Literal["mean", "sum"]
Task = Literal["binary", "regression"]
Family = Literal["text", "integer", "real", "boolean", "date", "timestamp", "timestamptz"]

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
_INTEGERS |= {"UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
_FAMILIES: dict[str, Family] = {
    "VARCHAR": "text",
    "UUID": "text",
    "BOOLEAN": "boolean",
    "FLOAT": "real",
    "DOUBLE": "real",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "timestamptz",
} | dict.fromkeys(_INTEGERS, "integer")  # type: ignore[operator]
_SYNONYMS = {
    "STRING": "VARCHAR",
    "TEXT": "VARCHAR",
    "INT": "INTEGER",
    "INT4": "INTEGER",
    "INT8": "BIGINT",
    "LONG": "BIGINT",
    "REAL": "FLOAT",
    "FLOAT4": "FLOAT",
    "FLOAT8": "DOUBLE",
    "BOOL": "BOOLEAN",
    "DATETIME": "TIMESTAMP",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
}
_DECIMAL = re.compile(r"DECIMAL\((\d{1,2}),\s*(\d{1,2})\)")

_JSON_FORMS: dict[Family, tuple[str, ...]] = {
    "text": ("string",),
    "integer": ("integer",),
    "real": ("number",),
    "boolean": ("boolean",),
    "date": ("iso8601",),
    "timestamp": ("iso8601", "epoch_s", "epoch_ms", "epoch_us"),
    "timestamptz": ("iso8601", "epoch_s", "epoch_ms", "epoch_us"),
}


def hint_at(name: str, candidates: Iterable[str], *, what: str) -> str:
    """A hint that names the nearest candidate, or all of them."""
    known = list(candidates)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"{what}: {', '.join(known) or 'none'}"


def normalise_type(declared: str) -> str:
    """The SQL type in the one spelling used throughout, such as ``BIGINT`` or ``VARCHAR[]``.

    Raises:
        SpecError: A type that no feature can be made of.
    """
    text = " ".join(declared.upper().split())
    if text.endswith("[]"):
        return normalise_type(text[:-2]) + "[]"
    text = _SYNONYMS.get(text, text)
    if decimal := _DECIMAL.fullmatch(text):
        return f"DECIMAL({int(decimal[1])},{int(decimal[2])})"
    if text not in _FAMILIES:
        msg = f"SQL type {declared!r} is not one that an input can have"
        raise SpecError(msg, hint=hint_at(text, [*_FAMILIES, "DECIMAL(p,s)", "VARCHAR[]"], what="types"))
    return text


@dataclass(frozen=True, kw_only=True)
class Input:
    """One raw column of an event.

    Attributes:
        name: Its name in tables, SQL, JSON and dicts.
        type: Its SQL type, normalised (``VARCHAR``, ``BIGINT``, ``TIMESTAMP``, ``VARCHAR[]``, ...).
        json: How JSON and dicts write it: ``string``, ``integer``, ``number``, ``boolean``, ``iso8601``, ``epoch_s``,
            ``epoch_ms`` or ``epoch_us``; for a list, the form of its elements. Empty: the type's first form.
    """

    name: str
    type: str
    json: str = ""

    def __post_init__(self) -> None:
        """Normalise the type, fill in the JSON form.

        Raises:
            SpecError: A bad name, an unknown type, or a JSON form that the type does not have.
        """
        _check_name(self.name, "input")
        try:
            object.__setattr__(self, "type", normalise_type(self.type))
        except SpecError as error:
            raise SpecError(f"input {self.name!r}: {error.message}", hint=error.hint) from None
        forms = _JSON_FORMS[self.family]
        object.__setattr__(self, "json", self.json or forms[0])
        if self.json not in forms:
            msg = f"input {self.name!r}: JSON form {self.json!r} does not go with {self.type}"
            raise SpecError(msg, hint=f"forms of {self.type}: {', '.join(forms)}")

    @property
    def is_list(self) -> bool:
        """Whether an event holds a list of values here."""
        return self.type.endswith("[]")

    @property
    def family(self) -> Family:
        """What kind of value it is (of a list: its elements)."""
        scalar = self.type.removesuffix("[]")
        return _FAMILIES.get(scalar, "real")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One field of the model.

    Attributes:
        name: Its name in explanations and embeddings.
        kind: ``categorical`` (one of many values), ``numeric`` (a number), ``multivalued`` (a LIST of categories).
        input: The raw column it is made of; empty means the one of the same name. Not with `sql`.
        sql: A scalar SQL expression over the inputs, in place of `input`; derived in UTC on every route.
        table: Features with the same table share vocabulary and embeddings; empty means a table of its own.
        min_count: Values seen fewer times in training are treated as unknown, which is how unknown is learnt.
        hash_buckets: Hash the values into so many rows instead of keeping a vocabulary; 0 means a vocabulary.
        transform: Of a numeric feature: ``none``, ``standard`` (minus mean, over deviation), ``log1p`` (sign kept, then
            standard), ``quantile`` (the number of its quantile bucket, as a category).
        buckets: How many quantile buckets.
        pooling: Of a multivalued feature: ``mean`` or ``sum`` of its values' embeddings.
        max_length: Of a multivalued feature: values past this many are left out.
    """

    name: str
    kind: Kind
    input: str = ""
    sql: str = ""
    table: str = ""
    min_count: int = 1
    hash_buckets: int = 0
    transform: Transform = "standard"
    buckets: int = 32
    pooling: Pooling = "mean"
    max_length: int = 16

    def __post_init__(self) -> None:
        """Fill in what follows from the name.

        Raises:
            SpecError: A setting out of its range, or one that the kind does not have.
        """
        _check_name(self.name, "feature")
        if self.input and self.sql:
            raise SpecError(f"feature {self.name!r} has both `input` and `sql`", hint="keep one of them")
        if not self.sql:
            object.__setattr__(self, "input", self.input or self.name)
        object.__setattr__(self, "table", self.table or self.name)
        for key, low, high in (
            ("min_count", 1, 2**31),
            ("hash_buckets", 0, MAX_HASH_BUCKETS),
            ("buckets", 2, 65_536),
            ("max_length", 1, MAX_SLOTS_PER_FEATURE),
        ):
            if not low <= getattr(self, key) <= high:
                msg = f"feature {self.name!r}: {key} is {getattr(self, key)}, expected {low} to {high}"
                raise SpecError(msg)
        own = {f.name for f in fields(self) if getattr(self, f.name) != f.default} - {"name", "kind", "input", "sql"}
        foreign = sorted(own - {"table"} - set(KEYS_OF_KIND[self.kind]))
        if foreign or (self.kind == "numeric" and self.table != self.name):
            msg = f"feature {self.name!r}: `{(foreign or ['table'])[0]}` does not go with kind {self.kind!r}"
            raise SpecError(msg, hint=f"settings of {self.kind}: {', '.join(KEYS_OF_KIND[self.kind])}")

    @property
    def column(self) -> str:
        """Where the encoder finds its values: the input, or the column of its own that SQL derives."""
        return self.name if self.sql else self.input

    @property
    def is_numeric_slot(self) -> bool:
        """Whether its slot's weight is the number itself."""
        return self.kind == "numeric" and self.transform != "quantile"

    @property
    def slots(self) -> int:
        """How many slots of a row it takes."""
        return self.max_length if self.kind == "multivalued" else 1


KEYS_OF_KIND: dict[str, tuple[str, ...]] = {
    "categorical": ("min_count", "hash_buckets", "table"),
    "numeric": ("transform", "buckets"),
    "multivalued": ("min_count", "hash_buckets", "table", "pooling", "max_length"),
}


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
    """

    inputs: tuple[Input, ...]
    features: tuple[Feature, ...]
    label: str
    task: Task = "binary"
    weight: str = ""
    group: str = ""
    event_time: str = ""
    event_id: str = ""

    def __post_init__(self) -> None:
        """Check what single inputs and features cannot know.

        Raises:
            SpecError: Duplicated names, a feature of an absent input or of one that its kind cannot use, features
                that share a table but not its settings, a label among the inputs.
        """
        _check_distinct((i.name for i in self.inputs), "input")
        _check_distinct((f.name for f in self.features), "feature")
        if not self.features:
            raise SpecError("the specification has no feature", hint="add a [features.NAME] table with its kind")
        _check_name(self.label, "label")
        if self.label in self.input_names:
            msg = f"label {self.label!r} is also an input: the model would be told the answer"
            raise SpecError(msg, hint=f"remove {self.label!r} from [inputs]")
        for feature in self.features:
            self._check_input_of(feature)
        self._check_tables()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of positional calls."""
        return tuple(i.name for i in self.inputs)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the meaning (comments and layout of the TOML do not count), in hexadecimal."""
        canonical = json.dumps(self._to_dict(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
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

    def _check_input_of(self, feature: Feature) -> None:
        if feature.sql:
            if feature.name in self.input_names:
                msg = f"feature {feature.name!r} is derived by SQL but bears the name of an input"
                raise SpecError(msg, hint="rename the feature")
            return
        if feature.input not in self._inputs_by_name:
            msg = f"feature {feature.name!r} uses input {feature.input!r}, which is not declared"
            raise SpecError(msg, hint=hint_at(feature.input, self.input_names, what="inputs"))
        source = self.input(feature.input)
        if source.is_list != (feature.kind == "multivalued"):
            expected = "a list type such as VARCHAR[]" if feature.kind == "multivalued" else "a single value"
            raise SpecError(f"feature {feature.name!r} is {feature.kind}: expected {expected}, got {source.type}")
        if feature.kind == "numeric" and source.family not in ("integer", "real", "boolean"):
            msg = f"feature {feature.name!r} is numeric, but input {source.name!r} is {source.type}"
            raise SpecError(msg, hint="make it categorical, or derive a number: sql = '...'")

    def _check_tables(self) -> None:
        first: dict[str, Feature] = {}
        for feature in self.features:
            other = first.setdefault(feature.table, feature)
            for key in ("min_count", "hash_buckets"):
                if getattr(other, key) != getattr(feature, key):
                    msg = f"features {other.name!r} and {feature.name!r} share table {feature.table!r}, not {key}"
                    raise SpecError(msg, hint=f"give both the same {key}")
            if other is not feature and "numeric" in (other.kind, feature.kind):
                msg = (
                    f"features {other.name!r} and {feature.name!r} share table {feature.table!r}; a number has its own"
                )
                raise SpecError(msg)

    @classmethod
    def load(cls, path: str | Path) -> FeatureSpec:
        """The specification in a TOML file.

        Raises:
            SpecError: The file cannot be read, or is not a valid specification; names the file.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            hint = "streamfm init DATA --label COLUMN proposes one"
            raise SpecError(f"{path}: cannot be read: {error}", hint=hint) from error
        return cls.from_toml(text, source=str(path))

    @classmethod
    def from_toml(cls, text: str, *, source: str = "features.toml") -> FeatureSpec:
        """The specification in a TOML text; `source` is the name used in errors.

        Raises:
            SpecError: Not valid TOML (a duplicated name among other things), unknown or missing keys, wrong values.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"{source}: not valid TOML: {error}", hint="each name may stand once") from error
        try:
            return _spec_from(document)
        except SpecError as error:
            raise SpecError(f"{source}: {error.message}", hint=error.hint) from None

    def to_toml(self, comments: Mapping[str, Sequence[str]] | None = None) -> str:
        """The specification as commented TOML; `from_toml` gives the same specification back.

        Args:
            comments: Lines to stand above an input (key ``inputs.NAME``) or a feature (``features.NAME``).
        """
        notes = comments or {}
        lines = ["# What an event looks like and what the model makes of it: see docs/features.md."]
        lines.append(f"format = {FORMAT}")
        lines += [f"{key} = {_toml(value)}" for key, value in self._settings().items()]
        lines += ["", "# Raw columns, in the order of positional SQL calls."]
        lines.append("[inputs]")
        for item in self.inputs:
            lines += [f"# {note}" for note in notes.get(f"inputs.{item.name}", ())]
            lines.append(f"{_key(item.name)} = {_input_toml(item)}")
        for feature in self.features:
            lines.append("")
            lines += [f"# {note}" for note in notes.get(f"features.{feature.name}", ())]
            lines.append(f"[features.{_key(feature.name)}]")
            lines += [f"{key} = {_toml(value)}" for key, value in _feature_dict(feature).items()]
        return "\n".join(lines) + "\n"

    def _settings(self) -> dict[str, str]:
        keys = ("label", "task", "weight", "group", "event_time", "event_id")
        return {key: getattr(self, key) for key in keys if getattr(self, key)}

    def _to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **self._settings(),
            "inputs": [[i.name, i.type, i.json] for i in self.inputs],
            "features": [[f.name, _feature_dict(f)] for f in self.features],
        }


def _feature_dict(feature: Feature) -> dict[str, Any]:
    """The feature's settings that are not defaults."""
    implied = {"input": feature.name, "table": feature.name}
    values = {f.name: (getattr(feature, f.name), implied.get(f.name, f.default)) for f in fields(feature)}
    return {key: value for key, (value, default) in values.items() if key != "name" and value not in ("", default)}


def _input_toml(item: Input) -> str:
    if item.json == _JSON_FORMS[item.family][0]:
        return _toml(item.type)
    return f"{{ type = {_toml(item.type)}, json = {_toml(item.json)} }}"


def _toml(value: str | int) -> str:
    # A JSON string without escaped surrogates is a TOML basic string, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        shown = repr(name)[:60]
        msg = f"{what} name {shown} is not usable: expected 1 to {MAX_NAME_LENGTH} printable characters"
        raise SpecError(msg)


def _check_distinct(names: Iterable[str], what: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if other := seen.get(name.casefold()):
            msg = (
                f"{what} {name!r} is there twice"
                if other == name
                else f"{what}s {other!r} and {name!r} differ in case only"
            )
            raise SpecError(msg, hint="SQL does not tell upper from lower case; rename one")
        seen[name.casefold()] = name


def _spec_from(document: dict[str, Any]) -> FeatureSpec:
    keys = {f.name for f in fields(FeatureSpec)} | {"format"}
    _check_keys(document, keys, "the specification")
    version = document.get("format")
    if version != FORMAT:
        msg = f"format is {version!r}, expected {FORMAT}"
        raise SpecError(msg, hint=f"write `format = {FORMAT}`, or upgrade streamfm for a newer one")
    if "label" not in document:
        raise SpecError("`label` is missing", hint='write the column to learn: label = "clicked"')
    settings = {key: value for key, value in document.items() if key not in ("format", "inputs", "features")}
    _check_types(settings, FeatureSpec, "the specification")
    return FeatureSpec(
        inputs=tuple(_input_from(name, value) for name, value in _section(document, "inputs").items()),
        features=tuple(_feature_from(name, value) for name, value in _section(document, "features").items()),
        **settings,
    )


def _section(document: dict[str, Any], key: str) -> dict[str, Any]:
    section = document.get(key, {})
    if not isinstance(section, dict):
        raise SpecError(f"`{key}` is {section!r}, expected a table [{key}]")
    return section


def _input_from(name: str, value: object) -> Input:
    if isinstance(value, str):
        return Input(name=name, type=value)
    if not isinstance(value, dict) or "type" not in value:
        raise SpecError(f"input {name!r}: expected a SQL type, or {{ type = ..., json = ... }}")
    _check_keys(value, {"type", "json"}, f"input {name!r}")
    _check_types(value, Input, f"input {name!r}")
    return Input(name=name, **value)


def _feature_from(name: str, value: object) -> Feature:
    where = f"feature {name!r}"
    if not isinstance(value, dict) or "kind" not in value:
        raise SpecError(f"{where}: `kind` is missing", hint=f"kinds: {', '.join(KEYS_OF_KIND)}")
    _check_keys(value, {f.name for f in fields(Feature)} - {"name"}, where)
    _check_types(value, Feature, where)
    return Feature(name=name, **value)


def _check_keys(given: Mapping[str, object], known: Collection[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r}", hint=hint_at(key, sorted(known), what="keys"))


def _check_types(given: Mapping[str, object], owner: type, where: str) -> None:
    """TOML values against the annotations of a dataclass."""
    hints = get_type_hints(owner)
    for key, value in given.items():
        choices = get_args(hints[key]) if get_origin(hints[key]) is Literal else None
        expected = str if choices else hints[key]
        if not isinstance(value, expected) or isinstance(value, bool):
            raise SpecError(f"{where}: {key} is {value!r}, expected {expected.__name__}")
        if choices and value not in choices:
            hint = hint_at(str(value), choices, what="choices")
            raise SpecError(f"{where}: {key} is {value!r}", hint=hint)
