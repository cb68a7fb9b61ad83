"""Features that are SQL: checked through DuckDB's parser, derived in UTC on every route."""

from streamfm.expressions.checking import Expression
from streamfm.expressions.derive import Deriver, check, expressions_of, private_connection, quoted, typed

__all__ = ["Deriver", "Expression", "check", "expressions_of", "private_connection", "quoted", "typed"]
