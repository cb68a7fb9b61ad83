"""Every way to get a specification wrong: an error that names the file and the key, with a hint where one helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfm.data import fit_vocabularies
from streamfm.errors import SpecError
from streamfm.features import Feature, FeatureSpec, Input


def top(settings: str) -> str:
    return f'format = 1\nlabel = "y"\n{settings}'


def inputs(declared: str) -> str:
    return top(f"[inputs]\n{declared}")


def feature(settings: str) -> str:
    """Of the name x, among an input of every kind."""
    return inputs(f'x = "VARCHAR"\nn = "DOUBLE"\nl = "VARCHAR[]"\n[features.x]\n{settings}')


# What is wrong: the TOML, a part of the message, a part of the hint.
WRONG: dict[str, tuple[str, str, str]] = {
    "not TOML": ("format = 1\n[inputs", "not valid TOML: Expected ']'", ""),
    "a text without quotes": ("label = clicked", "not valid TOML: Invalid value (at line 1", "texts go in quotes"),
    "a name with a space": ("my label = 1", "not valid TOML: Expected '='", "go in quotes"),
    "a key twice": ('format = 1\nlabel = "a"\nlabel = "b"', "Cannot overwrite a value", "each name may stand once"),
    "a section twice": ("[inputs]\n[inputs]", "Cannot declare ('inputs',) twice", "each name may stand once"),
    "nested without end": ("a = " + "[" * 50_000, "nested too deeply", ""),
    "nothing": ("", "`format` is missing", "format = 1"),
    "no format": ('label = "y"', "`format` is missing", "format = 1"),
    "a newer format": ('format = 2\nlabel = "y"', "format is 2, expected 1", "upgrade streamfm"),
    "format as text": ('format = "1"\nlabel = "y"', "format is '1', expected 1", ""),
    "format true": ('format = true\nlabel = "y"', "format is True, expected 1", ""),
    "no label": ("format = 1", "`label` is missing", 'label = "clicked"'),
    "label below a section": (
        'format = 1\n[inputs]\nx = "VARCHAR"\nlabel = "y"',
        "`label` is missing",
        "above [inputs]",
    ),
    "an unknown setting": (top('groups = "u"'), "top level: unknown key 'groups'", "'group'"),
    "a setting of another type": (top("group = 3"), "group is 3, expected a text in quotes", ""),
    "an unknown task": (top('task = "binery"'), "task is 'binery', expected 'binary'", "'binary'"),
    "an empty label": ('format = 1\nlabel = ""', "label name '' is not usable", ""),
    "inputs is no table": (top("inputs = 3"), "`inputs` is 3, expected a table", "[inputs]"),
    "features is a list": (top("features = []"), "`features` is [], expected a table", ""),
    "no feature": ('format = 1\nlabel = "y"', "has no feature", "[features.NAME]"),
    "a feature as text": (top('[features]\nx = "numeric"'), "feature 'x' is 'numeric'", "[features.x]"),
    "an input as number": (inputs("x = 3"), "input 'x' is 3, expected its SQL type", "VARCHAR"),
    "an input without type": (inputs("x = {}"), "input 'x': `type` is missing", "type ="),
    "an input with an unknown key": (
        inputs('x = { typ = "DATE" }'),
        "input 'x': unknown key 'typ'",
        "did you mean 'type'?",
    ),
    "an input type as number": (inputs("x = { type = 3 }"), "type is 3, expected a text", ""),
    "a mistyped type": (inputs('x = "VARCHR"'), "input 'x': SQL type 'VARCHR'", "'VARCHAR'"),
    "a type no feature has": (inputs('x = "BLOB"'), "SQL type 'BLOB'", "types: VARCHAR"),
    "a list of lists": (inputs('x = "VARCHAR[][]"'), "SQL type 'VARCHAR[][]'", "single values"),
    "an array": (inputs('x = "FLOAT[3]"'), "SQL type 'FLOAT[3]'", "VARCHAR[]"),
    "a decimal too wide": (inputs('x = "DECIMAL(40,2)"'), "no DECIMAL", "1 to 38 digits"),
    "a decimal all fraction": (inputs('x = "DECIMAL(2,3)"'), "no DECIMAL", "behind the point"),
    "a JSON form of another type": (
        inputs('x = { type = "DATE", json = "epoch_ms" }'),
        "input 'x': JSON form 'epoch_ms' does not go with DATE",
        "forms of DATE: iso8601",
    ),
    "an input twice by case": (
        inputs('id = "DATE"\nID = "DATE"'),
        "inputs 'id' and 'ID' differ in case only",
        "rename one",
    ),
    "an input without a name": (inputs('"" = "DATE"'), "input name '' is not usable", ""),
    "an input name on two lines": (
        inputs('"a\\nb" = "DATE"'),
        r"input name 'a\nb' is not usable",
        "",
    ),
    "an endless name": (inputs(f'{"x" * 200} = "DATE"'), "expected 1 to 128 printable", ""),
    "a feature twice by case": (
        feature('kind = "categorical"\n[features.X]\nkind = "categorical"\ninput = "x"'),
        "features 'x' and 'X' differ in case only",
        "rename one",
    ),
    "the label among the inputs": (
        inputs('y = "DATE"\n[features.y]\nkind = "categorical"'),
        "label 'y' is also an input",
        "remove 'y'",
    ),
    "the label among the inputs by case": (
        inputs('Y = "DATE"\n[features.Y]\nkind = "categorical"'),
        "label 'y' is also an input",
        "",
    ),
    "the label as weight": (
        feature('kind = "categorical"').replace('"y"', '"y"\nweight = "Y"'),
        "weight and label are the same column",
        "another weight",
    ),
    "no kind": (feature(""), "feature 'x': `kind` is missing", "kinds: categorical, numeric, multivalued"),
    "an unknown kind": (
        feature('kind = "categoric"'),
        "kind is 'categoric', expected 'categorical'",
        "did you mean 'categorical'?",
    ),
    "type for kind": (feature('type = "categorical"'), "feature 'x': unknown key 'type'", "kind"),
    "an unknown key": (
        feature('kind = "categorical"\nmin_cout = 3'),
        "unknown key 'min_cout'",
        "did you mean 'min_count'?",
    ),
    "the name as a key": (feature('kind = "categorical"\nname = "z"'), "unknown key 'name'", "keys:"),
    "a count as text": (
        feature('kind = "categorical"\nmin_count = "3"'),
        "min_count is '3', expected a whole number",
        "",
    ),
    "a count as true": (
        feature('kind = "categorical"\nmin_count = true'),
        "min_count is True, expected a whole number",
        "",
    ),
    "a count as fraction": (
        feature('kind = "categorical"\nmin_count = 1.5'),
        "min_count is 1.5, expected a whole number",
        "",
    ),
    "a count of nothing": (feature('kind = "categorical"\nmin_count = 0'), "min_count is 0, expected 1 to", ""),
    "too many buckets": (
        feature('kind = "categorical"\nhash_buckets = 2_000_000_000'),
        "hash_buckets is 2000000000, expected 0 to 1,073,741,824",
        "",
    ),
    "an absurd length": (
        feature('kind = "multivalued"\ninput = "l"\nmax_length = 100_000'),
        "max_length is 100000, expected 1 to 1,024",
        "",
    ),
    "one quantile": (
        feature('kind = "numeric"\ninput = "n"\ntransform = "quantile"\nbuckets = 1'),
        "buckets is 1, expected 2 to",
        "",
    ),
    "input and sql": (
        feature('kind = "categorical"\ninput = "x"\nsql = "x"'),
        "has both `input` and `sql`",
        "keep one",
    ),
    "an absent input": (
        feature('kind = "categorical"\ninput = "xx"'),
        "uses input 'xx', which is not declared",
        "did you mean 'x'?",
    ),
    "SQL under an input's name": (
        feature('kind = "categorical"\nsql = "lower(x)"'),
        "bears the name of an input",
        "rename the feature",
    ),
    "SQL under an input's name by case": (
        feature('kind = "categorical"\n[features.N]\nkind = "categorical"\nsql = "x"'),
        "bears the name of an input",
        "",
    ),
    "a list as category": (
        feature('kind = "categorical"\ninput = "l"'),
        "is categorical, but input 'l' is VARCHAR[]",
        "multivalued",
    ),
    "a text as list": (feature('kind = "multivalued"'), "is multivalued, but input 'x' is VARCHAR", "derive a list"),
    "a text as number": (feature('kind = "numeric"'), "is numeric, but input 'x' is VARCHAR", "derive a number"),
    "pooling of a category": (
        feature('kind = "categorical"\npooling = "sum"'),
        "`pooling` does not go with kind 'categorical'",
        "settings of categorical: table",
    ),
    "pooling of a category as by default": (
        feature('kind = "categorical"\npooling = "mean"'),
        "`pooling` does not go with kind 'categorical'",
        "",
    ),
    "several that do not belong": (
        feature('kind = "numeric"\ninput = "n"\nmin_count = 2\npooling = "sum"'),
        "`min_count`, `pooling` does not go",
        "",
    ),
    "a table of a number": (
        feature('kind = "numeric"\ninput = "n"\ntable = "z"'),
        "`table` does not go with kind 'numeric'",
        "",
    ),
    "buckets without quantile": (
        feature('kind = "numeric"\ninput = "n"\nbuckets = 8'),
        "`buckets` does not go with transform 'standard'",
        'transform = "quantile"',
    ),
    "counted and hashed": (
        feature('kind = "categorical"\nhash_buckets = 9\nmin_count = 2'),
        "has both `hash_buckets` and `min_count`",
        "remove one",
    ),
    "a table shared with other settings": (
        feature('kind = "categorical"\n[features.z]\nkind = "categorical"\ninput = "x"\ntable = "x"\nmin_count = 2'),
        "features 'x' and 'z' share table 'x', but their min_count are 1 and 2",
        "give both the same min_count",
    ),
    "a table shared with a number": (
        feature('kind = "numeric"\ninput = "n"\n[features.z]\nkind = "categorical"\ninput = "x"\ntable = "x"'),
        "share table 'x', but a number has a table of its own",
        "",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named_with_the_file_and_a_hint(what: str) -> None:
    text, message, hint = WRONG[what]
    with pytest.raises(SpecError) as caught:
        FeatureSpec.from_toml(text, source="models/app.toml")
    assert caught.value.message.startswith("models/app.toml: ")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@given(st.text(max_size=60) | st.text("[]={}\"'#.\n abc123", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(SpecError):
        FeatureSpec.from_toml(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "x", "kind": "nominal"},
        {"name": "x", "kind": "categorical", "min_count": "2"},
        {"name": "x", "kind": "categorical", "min_count": True},
        {"name": 3, "kind": "categorical"},
        {"name": "x", "kind": "categorical", "sql": "'\ud800'"},
        {"name": "x", "kind": "categorical", "table": "a\nb"},
    ],
)
def test_python_is_checked_like_toml(settings: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Feature(**settings)


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(SpecError) as caught:
            FeatureSpec.load(path)
        assert f"{path}: cannot be read" in caught.value.message
        assert "streamfm init" in str(caught.value.hint)


def test_a_file_in_another_encoding_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "features.toml"
    path.write_bytes('label = "é"'.encode("latin-1"))
    with pytest.raises(SpecError) as caught:
        FeatureSpec.load(path)
    assert f"{path}: is not text in UTF-8" in caught.value.message


def test_errors_inside_a_file_name_it(tmp_path: Path) -> None:
    path = tmp_path / "features.toml"
    path.write_text(feature('kind = "categorical"\nmin_cuont = 2'))
    with pytest.raises(SpecError) as caught:
        FeatureSpec.load(path)
    assert f"{path}: feature 'x': unknown key 'min_cuont'" == caught.value.message
    assert "did you mean 'min_count'?" == caught.value.hint


def test_sql_that_only_its_check_refuses_names_the_file_too(tmp_path: Path) -> None:
    path = tmp_path / "features.toml"
    path.write_text(feature('kind = "categorical"\nsql = "lower(z)"').replace("features.x", "features.low"))
    rows = pa.table({"x": ["a", "b"], "y": [0, 1]})
    with pytest.raises(SpecError) as caught:
        fit_vocabularies(rows, FeatureSpec.load(path), tmp_path / "vocabulary")
    assert f"{path}: feature 'low': sql = 'lower(z)': no input 'z'" == caught.value.message
    assert "inputs: x, n, l" == caught.value.hint


def test_a_specification_made_in_python_has_no_file_to_name(tmp_path: Path) -> None:
    derived = Feature(name="low", kind="categorical", sql="lower(z)")
    spec = FeatureSpec(inputs=(Input(name="x", type="VARCHAR"),), features=(derived,), label="y")
    with pytest.raises(SpecError) as caught:
        fit_vocabularies(pa.table({"x": ["a", "b"], "y": [0, 1]}), spec, tmp_path / "vocabulary")
    assert caught.value.message.startswith("feature 'low': ")


def test_the_file_is_no_part_of_a_specification_and_no_key_of_it() -> None:
    text = feature('kind = "categorical"')
    specs = [FeatureSpec.from_toml(text, source=name) for name in ("a.toml", "b.toml")]
    assert (specs[0], specs[0].fingerprint, specs[0].to_toml()) == (specs[1], specs[1].fingerprint, specs[1].to_toml())
    with pytest.raises(SpecError, match="top level: unknown key 'source'"):
        FeatureSpec.from_toml('source = "x"\n' + text)
