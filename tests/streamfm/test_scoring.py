from __future__ import annotations

import copy
import itertools
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from streamfm.bundle import BundleWriter, LayoutFacts, Manifest, open_bundle
from streamfm.encoder import Encoder
from streamfm.encoder.vocabulary import VALUES_SCHEMA, NumericStatistics, VocabularyWriter
from streamfm.errors import BundleError, DataError, MissingColumnsError, RegistryError
from streamfm.export.graph import build_graph
from streamfm.export.network import Dense, Network
from streamfm.features import FeatureSpec
from streamfm.registry import Registry
from streamfm.scoring import CHUNK_ROWS, NETWORK_ROWS, Precision, Scorer, load
from streamfm.testing import simulate_events

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "bundle_v1"
TOLERANCE = 1e-6
BORDERS = [0, 2, *(rows + more for rows in (NETWORK_ROWS, CHUNK_ROWS, 2 * CHUNK_ROWS) for more in (-1, 0, 1))]
EVENT = {"user_id": "user-00013", "app_id": "music-002", "genres": ["cards", "war"], "position": 3, "ts": 0}


@pytest.fixture(scope="module", params=["fp32", "int8"])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return load(GOLDEN, precision=request.param)


@pytest.fixture(scope="module")
def events() -> pa.Table:
    # More users and apps than the golden bundle was trained on: unknown ones, NULLs, empty lists.
    return simulate_events(5_000, seed=3, users=90, apps=40)


@pytest.fixture(scope="module")
def expected(scorer: Scorer, events: pa.Table) -> NDArray[np.float32]:
    return scorer.score(events)


def same(expected: Any, found: Any) -> None:
    assert np.asarray(found).dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


FORMS: dict[str, Callable[[pa.Table], Any]] = {
    "record batch": lambda table: table.combine_chunks().to_batches()[0],
    "table of many chunks": lambda table: pa.concat_tables(table.slice(n, 333) for n in range(0, len(table), 333)),
    "slice of a table": lambda table: pa.concat_tables([table.slice(0, 77), table]).combine_chunks().slice(77),
    "table of dictionaries": lambda table: pa.table(
        {
            name: c.dictionary_encode() if pa.types.is_string(c.type) else c
            for name, c in zip(table.column_names, table.columns, strict=True)
        }
    ),
    "columns in another order": lambda table: table.select(table.column_names[::-1]),
    "pandas": lambda table: table.to_pandas(),
    "pandas with categories": lambda table: table.to_pandas(strings_to_categorical=True),
    "pandas with its own NULLs": lambda table: table.to_pandas().convert_dtypes(),
    "polars": pl.from_arrow,
    "polars with categories": lambda table: pl.DataFrame(pl.from_arrow(table)).with_columns(
        pl.col(pl.String).cast(pl.Categorical)
    ),
    "list of dicts": lambda table: table.to_pylist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rows_has_the_same_scores(
    scorer: Scorer, events: pa.Table, expected: NDArray[np.float32], form: str
) -> None:
    same(expected, scorer.score(FORMS[form](events)))


def test_dicts_one_by_one_have_the_same_scores(scorer: Scorer, events: pa.Table, expected: NDArray[np.float32]) -> None:
    found = [scorer.score(row) for row in events[:200].to_pylist()]
    assert expected[:200].tolist() == pytest.approx(found, rel=0, abs=TOLERANCE)


def test_integers_that_pandas_made_floats_of_score_as_integers(scorer: Scorer, events: pa.Table) -> None:
    holes = [None if number % 3 else value for number, value in enumerate(events["position"].to_pylist())]
    table = events.set_column(events.column_names.index("position"), "position", pa.array(holes, pa.int32()))
    frame = table.to_pandas()
    assert "float64" == str(frame["position"].dtype)
    same(scorer.score(table), scorer.score(frame))


@pytest.mark.parametrize("rows", BORDERS)
def test_scores_do_not_know_of_chunks(
    scorer: Scorer, events: pa.Table, expected: NDArray[np.float32], rows: int
) -> None:
    same(expected[:rows], scorer.score(events[:rows]))
    same(expected[len(expected) - rows :], scorer.score(events[len(expected) - rows :]))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(
    scorer: Scorer, events: pa.Table, expected: NDArray[np.float32], seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(events))
    same(expected[order], scorer.score(events.take(pa.array(order))))


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(0, 5_000), max_size=6))
def test_how_rows_are_split_does_not_matter(
    scorer: Scorer, events: pa.Table, expected: NDArray[np.float32], cuts: list[int]
) -> None:
    ends = [0, *sorted(cuts), len(events)]
    parts = [scorer.score(events.slice(start, end - start)) for start, end in itertools.pairwise(ends)]
    same(expected, np.concatenate(parts))


def test_threads_of_the_network_do_not_change_scores(
    scorer: Scorer, events: pa.Table, expected: NDArray[np.float32]
) -> None:
    same(expected, load(GOLDEN, precision=scorer.precision, threads=2).score(events))


def test_threads_share_a_scorer(scorer: Scorer, events: pa.Table, expected: NDArray[np.float32]) -> None:
    def ask(start: int) -> NDArray[np.float32]:
        rows = events.slice(start, 400)
        assert scorer.score(rows[:1].to_pylist()[0]) == pytest.approx(float(expected[start]), rel=0, abs=TOLERANCE)
        return scorer.score(rows)

    starts = [*range(0, len(events), 400)] * 3
    with ThreadPoolExecutor(4) as pool:
        for start, found in zip(starts, pool.map(ask, starts), strict=True):
            same(expected[start : start + 400], found)


def test_logits_are_scores_before_the_sigmoid(scorer: Scorer, events: pa.Table, expected: NDArray[np.float32]) -> None:
    same(expected, (1 / (1 + np.exp(-scorer.logit(events).astype(np.float64)))).astype(np.float32))
    assert scorer.logit(EVENT) == pytest.approx(float(scorer.logit([EVENT])[0]), abs=TOLERANCE)


def test_one_dict_has_a_float_and_a_list_of_one_an_array(scorer: Scorer) -> None:
    assert (float, float) == (type(scorer.score(EVENT)), type(scorer.logit(EVENT)))
    same([scorer.score(EVENT)], scorer.score([EVENT]))


@pytest.mark.parametrize(
    "rows",
    [
        pa.table({"app_id": pa.array([], pa.string())}),
        pa.table({"app_id": pa.nulls(0)}),
        pa.table({"app_id": pa.array([], pa.string())}).to_pandas(),
        pl.DataFrame({"app_id": []}, schema={"app_id": pl.String}),
        [],
    ],
    ids=["table", "NULL table", "pandas", "polars", "list"],
)
def test_no_rows_have_no_scores(scorer: Scorer, rows: Any) -> None:
    for answer in (scorer.score(rows), scorer.logit(rows)):
        assert ((0,), np.float32) == (answer.shape, answer.dtype)
    assert [] == scorer.explain(rows)


def test_absent_inputs_are_null_and_other_columns_are_ignored(scorer: Scorer) -> None:
    event = {"app_id": "music-002", "position": 3}
    score = scorer.score(event)
    everything = dict.fromkeys(scorer.spec.input_names) | event
    assert score == pytest.approx(scorer.score(everything), abs=TOLERANCE)
    assert score == pytest.approx(scorer.score({**event, "clicked": 1, "other": object()}), abs=TOLERANCE)
    same([score], scorer.score(pa.table({"app_id": ["music-002"], "position": [3], "other": [b"x"]})))


def test_null_unknown_and_known_values_score_differently(scorer: Scorer) -> None:
    scores = {scorer.score({**EVENT, "app_id": app}) for app in (None, "nobody knows it", "music-002", "news-002")}
    assert 4 == len(scores)
    one, other = (scorer.score({**EVENT, "app_id": app}) for app in ("nobody knows it", "nor this"))
    assert one == other


def test_rows_without_any_input_are_refused(scorer: Scorer) -> None:
    with pytest.raises(MissingColumnsError, match="'user_id'") as raised:
        scorer.score({"usr_id": "user-00013"})
    assert ("usr_id",) == raised.value.available


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ({"session_seconds": "2.99"}, "feature 'session_seconds'"),
        ({"price": "2.99"}, "input 'price'"),
        ({"genres": "cards"}, "feature 'genres'"),
        ({"app_id": ["music-002"]}, "feature 'app_id'"),
        ({"app_id": {"id": "music-002"}}, "feature 'app_id'"),
        ({"app_id": b"music-002"}, "feature 'app_id'"),
        ({"ts": "yesterday"}, "input 'ts'"),
        ({"ts": 1.5e300}, "input 'ts'"),
        (pa.table({"ts": [b"x"]}), "input 'ts'"),
        (pa.table({"rating": ["good"]}), "feature 'rating'|input 'rating'"),
        (pa.table({"position": [{"top": 1}]}), "feature 'position'"),
        ("user-00013", "str holds no rows"),
        (None, "NoneType holds no rows"),
        ([{"app_id": "music-002"}, 7], "row 1 is int"),
    ],
)
def test_what_cannot_be_used_is_named(scorer: Scorer, rows: Any, named: str) -> None:
    for method in (scorer.score, scorer.logit, scorer.explain):
        with pytest.raises(DataError, match=named):
            method(rows)


def test_columns_of_another_length_are_refused(scorer: Scorer) -> None:
    for rows, length in ((3, 2), (3, 4), (CHUNK_ROWS + 1, CHUNK_ROWS), (CHUNK_ROWS + 1, 5 * CHUNK_ROWS)):
        columns = {"app_id": pa.nulls(length, pa.string()), "price": pa.nulls(rows, pa.float64())}
        with pytest.raises(DataError, match=f"'app_id'.* {length} rows, expected {rows}"):
            scorer.score_columns(columns, rows)


def test_what_is_handed_over_is_not_changed(scorer: Scorer, events: pa.Table) -> None:
    few = events[:5]
    for rows in (few.to_pylist(), few.to_pylist()[0]):
        before = copy.deepcopy(rows)
        scorer.score(rows)
        scorer.explain(rows)
        assert before == rows
    frame = few.to_pandas()
    before = frame.copy(deep=True)
    scorer.score(frame)
    assert before.astype(str).equals(frame.astype(str))


def test_answers_are_the_callers_own(scorer: Scorer, events: pa.Table, expected: NDArray[np.float32]) -> None:
    for rows in (events[:10], events):
        answers = scorer.score(rows)
        answers[:] = 7
        same(expected[: len(answers)], scorer.score(rows))
    embedding = scorer.embedding("app_id", "music-002")
    embedding[:] = 7
    assert not (scorer.embedding("app_id", "music-002") == 7).any()


@pytest.mark.parametrize(
    ("feature", "value", "row"),
    [
        ("app_id", None, "NULL"),
        ("app_id", "nobody knows it", "unknown"),
        ("category", "Käse", "unknown"),
        ("installed_categories", None, "NULL"),
        ("hour", 99, "unknown"),
        ("price", None, "NULL"),
    ],
)
def test_the_embedding_of_what_is_not_known(scorer: Scorer, feature: str, value: object, row: str) -> None:
    table, layout = load_file(GOLDEN / "weights.safetensors")["table"], scorer.encoder.layout
    number = [field.name for field in layout.fields].index(feature)
    rows = layout.null_rows if row == "NULL" else layout.unknown_rows
    np.testing.assert_array_equal(table[rows[number], :-1], scorer.embedding(feature, value))


def test_the_embedding_of_a_value_is_its_row_of_the_table(scorer: Scorer) -> None:
    table, vocabularies = load_file(GOLDEN / "weights.safetensors")["table"], scorer.bundle.vocabularies
    first = 0
    for name, vocabulary in vocabularies.tables.items():
        feature = next(f.name for f in scorer.spec.features if f.table == name)
        for place, value in enumerate(vocabularies.values(name)["value"].to_pylist()):
            np.testing.assert_array_equal(table[first + 2 + place, :-1], scorer.embedding(feature, value))
        first += vocabulary.rows
    assert len(table) == first


def test_features_that_share_a_table_share_embeddings(scorer: Scorer) -> None:
    one, other = (scorer.embedding(name, "music") for name in ("category", "installed_categories"))
    np.testing.assert_array_equal(one, other)
    assert ((3,), np.float32) == (one.shape, one.dtype)


def test_numbers_have_the_embedding_of_their_slot_or_bucket(scorer: Scorer) -> None:
    np.testing.assert_array_equal(scorer.embedding("price", 1.0), scorer.embedding("price", 2.0))
    assert not np.array_equal(scorer.embedding("session_seconds", 1.0), scorer.embedding("session_seconds", 1e6))


def test_the_embedding_of_no_feature_is_refused(scorer: Scorer) -> None:
    with pytest.raises(DataError, match="'app'") as raised:
        scorer.embedding("app", "music-002")
    assert raised.value.hint is not None
    assert "app_id" in raised.value.hint


def test_a_scorer_tells_what_it_is(scorer: Scorer) -> None:
    assert f"Scorer({str(GOLDEN)!r}, precision={scorer.precision!r})" == repr(scorer)
    assert ("golden", None) == (scorer.name, scorer.version)
    assert scorer.spec is scorer.bundle.spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "fp16"}, "precision is 'fp16', expected 'fp32' or 'int8'"),
        ({"threads": 0}, "threads is 0, expected 1 or more"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(GOLDEN, **arguments)


# Bundles of their own: written without torch, with random weights.

TOML = """
format = 1
label = "clicked"
[inputs]
app = "VARCHAR"
price = "DOUBLE"
[features.app]
kind = "categorical"
[features.price]
kind = "numeric"
"""


def write_bundle(folder: Path, toml: str = TOML, *, weight: float = 1.0, hidden: tuple[int, ...] = (3,)) -> Path:
    """A bundle that knows the categories 'a' and '5', whose first weights are times `weight`."""
    spec, random = FeatureSpec.from_toml(toml), np.random.default_rng(0)
    with BundleWriter(folder) as writer:
        writer.path("features.toml").write_text(spec.to_toml(), encoding="utf-8")
        vocabulary, statistics = VocabularyWriter(writer.path("vocabulary")), {}
        for feature in spec.features:
            if feature.kind == "numeric":
                vocabulary.add_rows(feature.table, "number", 3)
                statistics[feature.name] = NumericStatistics()
            else:
                vocabulary.add_values(feature.table, 2, [pa.record_batch([["a", "5"], [1, 1]], schema=VALUES_SCHEMA)])
        layout = Encoder(spec, vocabulary.finish(statistics)).layout
        shapes = list(itertools.pairwise((len(layout.fields) * 2, *hidden, 1))) if hidden else []
        network = Network(
            layout=layout,
            task=spec.task,
            table=random.normal(size=(layout.rows, 3)).astype(np.float32) * np.float32(weight),
            bias=5.0,
            layers=tuple(
                Dense(weight=random.normal(size=shape).astype(np.float32), bias=np.zeros(shape[1], np.float32))
                for shape in shapes
            ),
        )
        onnx.save(build_graph(network), writer.path("model.onnx"))
        bias = np.array([network.bias], np.float32)
        save_file({"table": network.table, "bias": bias}, writer.path("weights.safetensors"))
        facts = LayoutFacts(slots=layout.slots, rows=layout.rows, factors=2, hidden=hidden, weighted=layout.weighted)
        writer.commit(
            Manifest(
                name="small",
                created_at="2026-01-31T12:00:00+00:00",
                spec_fingerprint=spec.fingerprint,
                task=spec.task,
                layout=facts,
            )
        )
    return folder


def test_all_kernels_are_loaded_before_the_first_event(tmp_path: Path) -> None:
    genres = '[features.genres]\nkind = "multivalued"\n'
    write_bundle(tmp_path / "bundle", TOML.replace("[features.app]", f'genres = "VARCHAR[]"\n{genres}[features.app]'))
    code = """
        from streamfm.encoder import kernels
        from streamfm.scoring import load
        def loaded():
            return {name: len(k.signatures) for name, k in vars(kernels).items() if hasattr(k, "signatures")}
        scorer = load("bundle")
        before = loaded()
        scorer.score({"app": "a", "price": 1.5, "genres": ["b"]})
        scorer.score([{"app": 1, "price": 1, "genres": [1]}] * 3000)
        scorer.score({"price": None})
        print(before == loaded(), sum(before.values()) > 3)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ("True True\n", "") == (done.stdout, done.stderr)


def test_a_regression_model_scores_with_numbers(tmp_path: Path) -> None:
    scorer = load(write_bundle(tmp_path / "bundle", 'task = "regression"' + TOML))
    rows = [{"app": "a", "price": 3.0}, {"app": "a", "price": 30.0}, {"app": None}]
    np.testing.assert_array_equal(scorer.logit(rows), scorer.score(rows))
    assert np.abs(scorer.score(rows)).max() > 1
    assert scorer.logit(rows[0]) == pytest.approx(scorer.explain(rows[0]).logit)


def test_a_model_without_a_deep_part_explains_without_deep_shares(tmp_path: Path) -> None:
    scorer = load(write_bundle(tmp_path / "bundle", hidden=()))
    explanation = scorer.explain({"app": "a", "price": 3.0})
    assert (5.0, [0.0, 0.0]) == (explanation.base, [part.deep for part in explanation.contributions])
    total = explanation.base + sum(part.total for part in explanation.contributions)
    assert scorer.logit({"app": "a", "price": 3.0}) == pytest.approx(total, abs=1e-5)


def test_a_precision_that_the_bundle_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle: model\.int8\.onnx: the bundle has no such network") as raised:
        load(write_bundle(tmp_path / "bundle"), precision="int8")
    assert "it has fp32" == raised.value.hint


def test_an_expression_that_needs_a_value_fails_for_the_event_not_for_the_model(tmp_path: Path) -> None:
    toml = TOML + '[features.number]\nkind = "categorical"\nsql = "CAST(coalesce(app, \'none\') AS INTEGER)"\n'
    scorer = load(write_bundle(tmp_path / "bundle", toml))
    assert 0 <= scorer.score({"app": "5"}) <= 1
    with pytest.raises(DataError, match="feature 'number'"):
        scorer.score({"price": 1.0})


def test_an_expression_that_duckdb_refuses_is_named_with_its_file(tmp_path: Path) -> None:
    toml = TOML + '[features.number]\nkind = "categorical"\nsql = "no_such_function(app)"\n'
    bundle = open_bundle(write_bundle(tmp_path / "bundle", toml))
    with pytest.raises(BundleError, match=r"bundle: features\.toml: feature 'number'"):
        Scorer(bundle)


def only(outputs: dict[str, onnx.NodeProto], constants: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """A network that takes what the bundle's takes, and answers by one node an output."""
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT32, ["rows", 2]),
        helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["rows", 2]),
    ]
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(outputs.values()), "graph", inputs, found, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answering(operator: str, *inputs: str, **attributes: Any) -> bytes:
    """A network whose both outputs are what one operator makes of its inputs: `weights`, or a constant below."""
    constants = {
        "nan": np.array([[np.nan]], np.float32),
        "one": np.array([1], np.float32),
        "three": np.ones(3, np.float32),
    }
    nodes = {name: helper.make_node(operator, list(inputs), [name], **attributes) for name in ("logit", "score")}
    return bytes(only(nodes, {name: constants[name] for name in inputs if name in constants}).SerializeToString())


BROKEN = {
    "no protobuf": (b"not a network", "not an ONNX model"),
    "an operator that is none": (answering("Nonsense", "weights"), "onnxruntime refuses it"),
    "more answers than rows": (answering("Identity", "weights"), "for 1 empty events"),
    "no number": (answering("ReduceSum", "nan", keepdims=0), "for 1 empty events"),
    "always one answer": (answering("Identity", "one"), "for 2 empty events"),
    "another width": (answering("MatMul", "weights", "three"), "refuses it|does not run"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_network_that_cannot_answer_is_refused_at_load(
    kind: str, tmp_path: Path, reseal: Callable[..., None]
) -> None:
    folder = write_bundle(tmp_path / "bundle")
    model, message = BROKEN[kind]
    (folder / "model.onnx").write_bytes(model)
    reseal(folder)
    with pytest.raises(BundleError, match=rf"bundle: model\.onnx: .*({message})"):
        load(folder)


def test_a_network_whose_numbers_are_infinite_is_refused_at_load(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", 'task = "regression"' + TOML, weight=1e30)
    with pytest.raises(BundleError, match=r"bundle: model\.onnx: answers"):
        load(folder)


# References and leases.


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The golden bundle as versions 1, 2 and 3 of a model; the champion is 2."""
    registry = Registry(tmp_path / "models")
    for _ in range(3):
        registry.publish(GOLDEN, "ctr", keep_source=True)
    registry.promote("ctr", 2)
    return registry


@pytest.mark.parametrize(("reference", "version"), [("ctr@champion", 2), ("ctr/1", 1), ("ctr/3", 3)])
def test_a_reference_is_a_version_or_an_alias(registry: Registry, reference: str, version: int) -> None:
    expected = load(GOLDEN).score(EVENT)
    for path in (f"{registry.root}/{reference}", registry.root / reference):
        scorer = load(path)
        assert ("ctr", version) == (scorer.name, scorer.version)
        assert expected == scorer.score(EVENT)


def test_a_reference_to_nothing_is_refused(registry: Registry, tmp_path: Path) -> None:
    for reference in ("ctr@nobody", "ctr/9", "other@champion"):
        with pytest.raises(RegistryError):
            load(registry.root / reference)
    with pytest.raises(BundleError, match="there is no such folder"):
        load(tmp_path / "nothing")


def test_a_version_is_not_pruned_while_a_scorer_of_it_lives(registry: Registry) -> None:
    scorer: Scorer | None = load(registry.root / "ctr/1")
    assert [1] == [*registry.prune("ctr", keep=1).kept][:1]
    assert scorer is not None
    assert 0 < scorer.score(EVENT) < 1
    del scorer
    assert 1 in registry.prune("ctr", keep=1).removed


def test_a_refused_version_is_not_held(registry: Registry) -> None:
    network = registry.root / "ctr" / "1" / "model.onnx"
    network.write_bytes(network.read_bytes()[::-1])
    with pytest.raises(BundleError, match=r"model\.onnx") as raised:
        load(registry.root / "ctr/1")
    # The exception still holds the frames that it came through.
    assert raised.value.__traceback__ is not None
    assert 1 in registry.prune("ctr", keep=1).removed


def test_a_version_that_was_copied_over_another_is_refused(registry: Registry) -> None:
    folder = registry.root / "ctr"
    shutil.rmtree(folder / "3")
    shutil.copytree(folder / "1", folder / "3")
    with pytest.raises(BundleError, match=r"3: manifest\.json: the bundle is ctr/1, expected ctr/3"):
        load(folder / "3")


def test_two_precisions_of_a_version_are_two_scorers(registry: Registry) -> None:
    precisions: tuple[Precision, Precision] = ("fp32", "int8")
    one, other = (load(registry.root / "ctr@champion", precision=precision).score(EVENT) for precision in precisions)
    assert one != other
    assert one == pytest.approx(other, abs=0.02)


def test_dicts_are_scored_without_pandas_where_it_is_installed() -> None:
    code = """
    import sys
    from streamfm.scoring import load
    scorer = load(sys.argv[1])
    row = {"user_id": "u", "app_id": 2.5, "genres": ["cards", None], "position": 3, "price": 1.5, "ts": 0}
    for rows in (row, [row, {}], [row, dict.fromkeys(row)], {"position": 7.0, "user_id": float("nan"), "genres": []}):
        scorer.score(rows)
    print("pandas" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(GOLDEN)]
    assert "False\n" == subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
