"""The SQL that stands between a query and the Python functions: macros, which carry names, defaults and comments.

One macro answers calls by name, by position and with a whole row. Its body asks the types of what it was given (DuckDB
folds that away while it binds) and calls the function either way:

    CASE WHEN __is_row(typeof(user_id), typeof(ts))
         THEN __score(__read_as(...), row, hour(row.ts)) ELSE __score(__read_as(...), user_id, hour(ts)) END
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from streamfm.expressions import Expression, quoted
from streamfm.features import FeatureSpec
from udfs.duckdb_place import Place
from udfs.duckdb_types import Argument, derived_values, row_for_sql, row_value

MODELS = "deepfm_models"
_INFO = "__deepfm_model_"


def text(value: str) -> str:
    """An SQL string constant."""
    return "'" + value.replace("'", "''") + "'"


def function(name: str) -> str:
    """One of our functions, written so that no macro can take its place."""
    return f'"system".main.{quoted(name)}'


def info_name(name: str) -> str:
    """The macro that keeps what `deepfm_models()` tells of a registered name."""
    return _INFO + name


def macro_names(name: str) -> dict[str, str]:
    """The public macros of a registered name, by what they do."""
    return {what: f"{name}_{what}" for what in ("score", "logit", "explain", "embedding")}


def statements(
    name: str,
    place: Place,
    spec: FeatureSpec,
    expressions: Mapping[str, Expression],
    arguments: Sequence[Argument],
    functions: Mapping[str, str],
    about: Mapping[str, object],
) -> Iterator[str]:
    """The statements that make every macro of a registered name ask one version.

    Args:
        name: The registered name.
        place: Where to keep the macros.
        spec: The features.
        expressions: Those of the SQL features.
        arguments: What the inputs take.
        functions: The version's functions in DuckDB, by what they do.
        about: What `deepfm_models()` tells, as JSON.
    """
    names = macro_names(name)
    parameters = ", ".join(f"{quoted(item.name)} := NULL" for item in spec.inputs)
    comments = _comments(about)
    for what in ("score", "logit", "explain"):
        body = _call(what, functions, spec, expressions, arguments)
        yield f"{place.create(names[what])}({parameters}) AS {body}"
        yield f"COMMENT ON MACRO {place.path(names[what])} IS {text(comments[what])}"
    known = f"{function(functions['has_feature'])}(feature)"
    body = f"CASE WHEN {known} THEN {function(functions['embedding'])}(feature, value) END"
    yield f"{place.create(names['embedding'])}(feature, value) AS {body}"
    yield f"COMMENT ON MACRO {place.path(names['embedding'])} IS {text(comments['embedding'])}"
    yield f"{place.create(info_name(name))}() AS {text(json.dumps(about))}"
    yield f"{place.create(MODELS)}() AS TABLE {_MODELS_QUERY}"
    yield f"COMMENT ON MACRO TABLE {place.path(MODELS)} IS 'The models that streamfm has registered in this database.'"


def drop_statements(name: str, place: Place) -> Iterator[str]:
    """The statements that take a registered name's macros away."""
    for macro in (*macro_names(name).values(), info_name(name)):
        yield f"DROP MACRO IF EXISTS {place.path(macro)}"


def _call(
    what: str,
    functions: Mapping[str, str],
    spec: FeatureSpec,
    expressions: Mapping[str, Expression],
    arguments: Sequence[Argument],
) -> str:
    called, is_row, read_as = (function(functions[name]) for name in (what, "is_row", "read_as"))
    kinds = ", ".join(f'"system".main.typeof({quoted(item.name)})' for item in spec.inputs)
    row = quoted(spec.inputs[0].name)
    in_row = derived_values(expressions, arguments, row_for_sql(row, arguments))
    of_row = ", ".join([row_value(row, arguments), *in_row])
    of_values = ", ".join([*(a.value for a in arguments if a.is_encoded), *derived_values(expressions, arguments, "")])
    read = f"{read_as}({kinds})"
    return f"CASE WHEN {is_row}({kinds}) THEN {called}({read}, {of_row}) ELSE {called}({read}, {of_values}) END"


def _comments(about: Mapping[str, object]) -> dict[str, str]:
    version = f" version {about['version']}" if about["version"] is not None else ""
    by_model = f"by DeepFM {about['model']!r}{version} ({about['precision']})"
    ways = "Inputs by name (x := ..), by position, or a whole row: FROM t SELECT {}(t)."
    names = macro_names(str(about["name"]))
    score = "Probability in [0, 1]" if about["task"] == "binary" else "Predicted number"
    return {
        "score": f"{score} {by_model}. {ways.format(names['score'])}",
        "logit": f"The score before the sigmoid {by_model}. {ways.format(names['logit'])}",
        "explain": f"What each feature adds to the logit, a list, {by_model}. {ways.format(names['explain'])}",
        "embedding": f"The factors of one value of a feature, FLOAT[K], {by_model}: for array_cosine_similarity.",
    }


# duckdb_functions() shows a macro's body as it was written: a JSON text in quotes.
_MODELS_QUERY = f"""
    WITH kept AS (
        SELECT database_name, schema_name,
               json(replace(macro_definition[2:-2], '''''', '''')) AS about
        FROM duckdb_functions() WHERE function_type = 'macro' AND starts_with(function_name, '{_INFO}'))
    SELECT about->>'name' AS name, about->>'model' AS model, CAST(about->>'version' AS BIGINT) AS version,
           about->>'precision' AS "precision", about->>'reference' AS reference, about->>'bundle' AS bundle,
           CAST(about->>'registered_at' AS TIMESTAMP) AS registered_at, about->>'fingerprint' AS fingerprint,
           CAST(about->'functions' AS VARCHAR[]) AS functions, about->'metrics' AS metrics,
           database_name AS database, schema_name AS schema,
           EXISTS (SELECT 1 FROM duckdb_functions() f WHERE f.function_name = about->>'function') AS is_loaded
    FROM kept ORDER BY name, database, schema"""
