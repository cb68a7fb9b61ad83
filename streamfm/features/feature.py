"""A feature: one field of the model, and the input or the SQL expression that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from streamfm.errors import SpecError
from streamfm.features.checks import check_keys, check_name, check_range, check_types

Kind = Literal["categorical", "numeric", "multivalued"]
Transform = Literal["none", "standard", "log1p", "quantile"]
Pooling = Literal["mean", "sum"]

KEYS_OF_KIND: Mapping[Kind, tuple[str, ...]] = {
    "categorical": ("table", "min_count", "hash_buckets"),
    "numeric": ("transform", "buckets"),
    "multivalued": ("table", "min_count", "hash_buckets", "pooling", "max_length"),
}
_KEYS_OF_ALL = ("kind", "input", "sql")
_RANGES = {"min_count": (1, 2**31), "hash_buckets": (0, 2**30), "buckets": (2, 65_536), "max_length": (1, 1024)}


@dataclass(frozen=True, kw_only=True, slots=True)
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
            SpecError: A setting of a wrong type or out of its range, or one that this feature would not heed.
        """
        check_name(self.name, "feature")
        where = f"feature {self.name!r}"
        check_types(self, where)
        if self.input and self.sql:
            raise SpecError(f"{where} has both `input` and `sql`", hint="keep one of them")
        if not self.sql:
            object.__setattr__(self, "input", self.input or self.name)
        object.__setattr__(self, "table", self.table or self.name)
        check_name(self.table, f"{where}: table")
        for key, (low, high) in _RANGES.items():
            check_range(self, key, low, high, where)
        settings = set(self.settings()) - set(_KEYS_OF_ALL)
        _check_keys_of_kind(settings, self.kind, where)
        if "hash_buckets" in settings and "min_count" in settings:
            hint = "remove one: hashed values are not counted"
            raise SpecError(f"{where} has both `hash_buckets` and `min_count`", hint=hint)
        if "buckets" in settings and self.transform != "quantile":
            hint = 'write transform = "quantile", or remove `buckets`'
            raise SpecError(f"{where}: `buckets` does not go with transform {self.transform!r}", hint=hint)

    @classmethod
    def from_declared(cls, name: str, value: object) -> Feature:
        """The feature of a TOML file's table.

        Raises:
            SpecError: No table, without a kind, with an unknown key, or as for the class itself.
        """
        where = f"feature {name!r}"
        if not isinstance(value, dict):
            hint = f"write [features.{name}] and its kind below"
            raise SpecError(f"{where} is {value!r}, expected a table", hint=hint)
        check_keys(value, [f.name for f in fields(cls) if f.name != "name"], where)
        if "kind" not in value:
            raise SpecError(f"{where}: `kind` is missing", hint=f"kinds: {', '.join(KEYS_OF_KIND)}")
        feature = cls(name=name, **value)
        # Here also those that are written out with their default.
        _check_keys_of_kind(set(value) - set(_KEYS_OF_ALL), feature.kind, where)
        return feature

    def settings(self) -> dict[str, Any]:
        """What a TOML file has to say of it: the settings that are not defaults."""
        implied = {"input": self.name, "table": self.name}
        values = {f.name: (getattr(self, f.name), implied.get(f.name, f.default)) for f in fields(self)}
        return {key: value for key, (value, default) in values.items() if key != "name" and value not in ("", default)}

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


def _check_keys_of_kind(given: set[str], kind: Kind, where: str) -> None:
    """Refuse settings that a feature of this kind would not heed.

    Raises:
        SpecError: There are some; names them all.
    """
    if foreign := sorted(given - set(KEYS_OF_KIND[kind])):
        names = ", ".join(f"`{key}`" for key in foreign)
        hint = f"settings of {kind}: {', '.join(KEYS_OF_KIND[kind])}"
        raise SpecError(f"{where}: {names} does not go with kind {kind!r}", hint=hint)
