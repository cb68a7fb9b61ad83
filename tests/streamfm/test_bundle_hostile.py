"""Bundles that somebody or something has broken: each is refused by the name of a file, whatever was done to it."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save as save_tensors

from streamfm.bundle import open_bundle
from streamfm.bundle.onnx_check import check_onnx
from streamfm.bundle.tensor_check import check_npy, check_safetensors
from streamfm.errors import BundleError

Reseal = Callable[..., None]

FILES = (
    "features.toml",
    "manifest.json",
    "model.int8.onnx",
    "model.onnx",
    "vocabulary/0.slots.npy",
    "vocabulary/0.values.arrow",
    "vocabulary/tables.json",
    "weights.safetensors",
)


@pytest.fixture(scope="module")
def victim(pristine_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for tests that break one file at a time and mend it again."""
    return Path(shutil.copytree(pristine_bundle, tmp_path_factory.mktemp("victim") / "bundle"))


def refusal(folder: Path, name: str, data: bytes) -> str:
    """What a bundle is refused with when one of its files has these bytes; the file is mended afterwards."""
    path = folder / name
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        with pytest.raises(BundleError) as caught:
            open_bundle(folder)
    finally:
        path.write_bytes(before)
    return caught.value.message


# Accidents: bits that flip, files that end early


def test_the_names_of_the_files_are_known(pristine_bundle: Path) -> None:
    found = [path.relative_to(pristine_bundle).as_posix() for path in pristine_bundle.rglob("*") if path.is_file()]
    assert sorted(FILES) == sorted(found)


@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@example(name="manifest.json", place=0.999, flip=32)
@example(name="weights.safetensors", place=0.999, flip=1)
def test_a_changed_byte_is_found_anywhere(victim: Path, name: str, place: float, flip: int) -> None:
    data = bytearray((victim / name).read_bytes())
    data[int(place * len(data))] ^= flip
    message = refusal(victim, name, bytes(data))
    assert name in message or "manifest.json" in message


@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True))
@example(name="model.onnx", place=0)
@example(name="manifest.json", place=0)
@example(name="vocabulary/0.slots.npy", place=0.5)
def test_a_file_that_ends_early_is_found(victim: Path, name: str, place: float) -> None:
    data = (victim / name).read_bytes()
    message = refusal(victim, name, data[: int(place * len(data))])
    assert name in message or "manifest.json" in message


@given(name=st.sampled_from(FILES), more=st.binary(min_size=1, max_size=20))
def test_a_file_that_goes_on_is_found(victim: Path, name: str, more: bytes) -> None:
    assert name in refusal(victim, name, (victim / name).read_bytes() + more)


def test_every_byte_of_a_manifest_counts(victim: Path) -> None:
    data = (victim / "manifest.json").read_bytes()
    for place in range(0, len(data), 7):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert "manifest.json" in refusal(victim, "manifest.json", changed)


# Intent: the manifest agrees with what was changed


@given(
    name=st.sampled_from([name for name in FILES if name != "manifest.json"]),
    place=st.floats(0, 1, exclude_max=True),
    data=st.binary(max_size=40),
)
def test_whatever_stands_in_a_file_nothing_but_a_bundle_error_comes_out(
    victim: Path, reseal: Reseal, name: str, place: float, data: bytes
) -> None:
    before = (victim / name).read_bytes()
    start = int(place * len(before))
    (victim / name).write_bytes(before[:start] + data + before[start + len(data) :])
    reseal(victim)
    try:
        with suppress(BundleError):
            open_bundle(victim)
    finally:
        (victim / name).write_bytes(before)
        reseal(victim)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.onnx",
        "vocabulary/../../outside.onnx",
        "/etc/outside.json",
        "..\\outside.onnx",
        "C:/outside.onnx",
        "C:outside.onnx",
        "./model.onnx",
        "vocabulary//tables.json",
        "vocabulary/",
        "",
        ".",
        "..",
        "a\0b.onnx",
        "a\nb.onnx",
        "model.onnx ",
        ".ssh/key.json",
        "manifest.json",
        "\ud800.json",
        "a" * 600 + ".json",
        "run.py",
        "weights.pkl",
        "lib.so",
    ],
)
def test_a_manifest_that_names_such_a_file_is_refused(small_bundle: Path, reseal: Reseal, name: str) -> None:
    (small_bundle.parent / "outside.onnx").write_bytes((small_bundle / "model.onnx").read_bytes())
    body = json.loads((small_bundle / "manifest.json").read_text())
    entry = body["files"]["model.onnx"]
    if "\ud800" in name:
        # UTF-8 cannot write half a surrogate pair, but a JSON escape can.
        reseal(small_bundle, digest=False, files=body["files"] | {"SURROGATE.json": entry})
        path = small_bundle / "manifest.json"
        path.write_bytes(path.read_bytes().replace(b"SURROGATE", rb"\ud800"))
    else:
        reseal(small_bundle, digest=False, files=body["files"] | {name: entry})
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(small_bundle)


def test_two_names_that_some_file_systems_take_for_one_are_refused(small_bundle: Path, reseal: Reseal) -> None:
    shutil.copyfile(small_bundle / "model.onnx", small_bundle / "Model.onnx")
    reseal(small_bundle)
    with pytest.raises(BundleError, match=r"manifest\.json.*'model\.onnx' is there twice"):
        open_bundle(small_bundle)


def link_a_file(folder: Path) -> str:
    (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")
    return "model.onnx: is a symbolic link"


def link_a_folder(folder: Path) -> str:
    (folder / "vocabulary").rename(folder.parent / "elsewhere")
    (folder / "vocabulary").symlink_to(folder.parent / "elsewhere")
    return "vocabulary: is a symbolic link"


def link_the_manifest(folder: Path) -> str:
    (folder / "manifest.json").rename(folder.parent / "manifest.json")
    (folder / "manifest.json").symlink_to(folder.parent / "manifest.json")
    return "manifest.json"


def link_to_nothing(folder: Path) -> str:
    (folder / "more.json").symlink_to(folder / "nothing")
    return "more.json: is a symbolic link"


def put_a_pipe(folder: Path) -> str:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    return "model.onnx: is not a plain file"


def put_a_pipe_for_the_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    return "manifest.json"


def put_a_folder(folder: Path) -> str:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    return "model.onnx: an empty folder"


def add_a_folder(folder: Path) -> str:
    (folder / "a" / "b").mkdir(parents=True)
    return "a/b: an empty folder"


@pytest.mark.parametrize(
    "change",
    [
        link_a_file,
        link_a_folder,
        link_the_manifest,
        link_to_nothing,
        put_a_pipe,
        put_a_pipe_for_the_manifest,
        put_a_folder,
        add_a_folder,
    ],
)
def test_what_is_no_plain_file_is_refused(small_bundle: Path, change: Callable[[Path], str]) -> None:
    expected = change(small_bundle)
    with pytest.raises(BundleError) as caught:
        open_bundle(small_bundle)
    assert expected in caught.value.message


# ONNX


def model(nodes: list[onnx.NodeProto], *, initializers: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, ["rows", 2])]
    outputs = [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["rows"])]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, initializers))


def tensor(*dims: int, values: int = 1, name: str = "t") -> onnx.TensorProto:
    """A float tensor that declares these dimensions and holds so many values."""
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(4 * values))


def constant(value: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=value)


def inside_a_branch(*nodes: onnx.NodeProto, depth: int = 1) -> onnx.NodeProto:
    graph = helper.make_graph(list(nodes), "branch", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=graph)
    return node if depth == 1 else inside_a_branch(node, depth=depth - 1)


def external(name: str = "t") -> onnx.TensorProto:
    outside = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../../../etc/passwd")
    return outside


def with_function() -> onnx.ModelProto:
    function = helper.make_function("mine", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
    whole = model([helper.make_node("Relu", ["ids"], ["logit"])])
    whole.functions.append(function)
    return whole


def with_opset(domain: str) -> onnx.ModelProto:
    whole = model([helper.make_node("Relu", ["ids"], ["logit"])])
    whole.opset_import.append(helper.make_opsetid(domain, 1))
    return whole


def with_training() -> onnx.ModelProto:
    whole = model([helper.make_node("Relu", ["ids"], ["logit"])])
    whole.training_info.add()
    return whole


def sparse(*dims: int) -> onnx.SparseTensorProto:
    indices = TensorProto(name="i", data_type=TensorProto.INT64, dims=[1], raw_data=bytes(8))
    return onnx.SparseTensorProto(values=tensor(1), indices=indices, dims=dims)


def merged(message: Any, more: Any) -> bytes:
    """The bytes of a message that a reader merges from two: what protobuf makes of a field that occurs twice."""
    return bytes(message.SerializeToString() + more.SerializeToString())


RELU = helper.make_node("Relu", ["ids"], ["logit"])
HOSTILE = {
    "external data": (model([RELU], initializers=(external(),)), "tensor 't' is stored outside the file"),
    "external data in a constant": (model([constant(external())]), "stored outside the file"),
    "external data in a branch": (model([inside_a_branch(constant(external()), depth=3)]), "stored outside the file"),
    "external by location only": (
        model([RELU], initializers=(TensorProto(name="t", data_type=1, dims=[0], data_location=1),)),
        "stored outside the file",
    ),
    "too large": (model([RELU], initializers=(tensor(1 << 40),)), "tensor 't' declares 1099511627776 elements"),
    "too large in two dimensions": (model([RELU], initializers=(tensor(1 << 32, 1 << 32),)), "declares 4294967296 x"),
    "too large without bytes": (
        model([RELU], initializers=(TensorProto(name="t", data_type=1, dims=[3], float_data=[1.0, 2.0]),)),
        "declares 3 elements",
    ),
    "too large without any": (
        model([RELU], initializers=(TensorProto(name="t", data_type=1, dims=[10**9]),)),
        "declares 1000000000 elements, and has 0 bytes",
    ),
    "negative": (model([RELU], initializers=(tensor(-1),)), "impossible dimensions"),
    "too small": (model([RELU], initializers=(tensor(1, values=2),)), "declares 1 elements, and has 8 bytes"),
    "too large in a constant": (model([constant(tensor(1 << 40))]), "declares 1099511627776 elements"),
    "too large in a branch": (model([inside_a_branch(constant(tensor(9)))]), "declares 9 elements"),
    "unknown type": (model([RELU], initializers=(TensorProto(name="t", data_type=99),)), "data type 99"),
    "operator of another domain": (
        model([helper.make_node("Run", ["ids"], ["logit"], domain="evil")]),
        "domain 'evil'",
    ),
    "such an operator in a branch": (
        model([inside_a_branch(helper.make_node("Run", [], ["y"], domain="evil"))]),
        "operator of domain 'evil'",
    ),
    "operator set of another domain": (with_opset("ai.onnx.contrib"), "operator set of domain 'ai.onnx.contrib'"),
    "operator that reads a file": (
        model([helper.make_node("EPContext", [], ["y"], domain="com.microsoft", ep_cache_context="/etc/passwd")]),
        "operator EPContext, which reads a file",
    ),
    "loop": (model([helper.make_node("Loop", [], ["y"])]), "operator Loop, which may never end"),
    "functions": (with_function(), "functions of its own"),
    "training": (with_training(), "training graphs"),
    "nested too deep": (model([inside_a_branch(RELU, depth=20)]), "nested more than 8 deep"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_onnx_model_is_refused(small_bundle: Path, reseal: Reseal, case: str) -> None:
    whole, message = HOSTILE[case]
    (small_bundle / "model.onnx").write_bytes(whole.SerializeToString())
    reseal(small_bundle)
    for verify in (True, False):
        with pytest.raises(BundleError) as caught:
            open_bundle(small_bundle, verify=verify)
        assert f"{small_bundle}: model.onnx: " in caught.value.message
        assert message in caught.value.message


def test_a_model_that_onnx_itself_stores_outside_is_refused(tmp_path: Path) -> None:
    whole = model([RELU], initializers=(numpy_helper.from_array(np.zeros(1000, np.float32), "big"),))
    onnx.save(whole, tmp_path / "m.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    with pytest.raises(BundleError, match="'big' is stored outside the file"):
        check_onnx((tmp_path / "m.onnx").read_bytes(), file="m.onnx")


def test_halves_that_protobuf_would_merge_are_refused() -> None:
    whole = model([RELU])
    with pytest.raises(BundleError, match="two graphs"):
        check_onnx(merged(whole, onnx.ModelProto(graph=whole.graph)), file="m.onnx")
    attribute = helper.make_attribute("value", tensor(1)).SerializeToString()
    dims = onnx.AttributeProto(t=TensorProto(data_type=1, dims=[1])).SerializeToString()
    field = struct.pack("BB", 5 << 3 | 2, len(attribute + dims)) + attribute + dims
    node = onnx.NodeProto(op_type="Constant").SerializeToString() + field
    graph = struct.pack("BB", 1 << 3 | 2, len(node)) + node
    data = struct.pack("BB", 7 << 3 | 2, len(graph)) + graph
    assert [1, 1] == list(onnx.ModelProto.FromString(data).graph.node[0].attribute[0].t.dims)
    with pytest.raises(BundleError, match="field 5 of an attribute is there twice"):
        check_onnx(data, file="m.onnx")


@pytest.mark.parametrize(("dims", "fits"), [((8,), True), ((1 << 40,), False)])
def test_sparse_tensors_are_looked_into(dims: tuple[int, ...], fits: bool) -> None:
    whole = model([RELU])
    whole.graph.sparse_initializer.append(sparse(*dims))
    if fits:
        check_onnx(whole.SerializeToString(), file="m.onnx")
    else:
        with pytest.raises(BundleError, match="a sparse tensor declares 1099511627776 elements"):
            check_onnx(whole.SerializeToString(), file="m.onnx")


ONNX_TYPES = sorted(set(range(1, 27)) & set(TensorProto.DataType.values()) - {TensorProto.STRING})


@given(kind=st.sampled_from(ONNX_TYPES), dims=st.lists(st.integers(0, 5), max_size=3), raw=st.booleans())
def test_every_honest_tensor_is_let_through(kind: int, dims: list[int], raw: bool) -> None:
    values = np.ones(dims, np.float32).astype(helper.tensor_dtype_to_np_dtype(kind))
    stored = numpy_helper.from_array(values, "t")
    if not raw and kind not in (TensorProto.UINT4, TensorProto.INT4):
        stored = helper.make_tensor("t", kind, dims, values.flatten().tolist())
    check_onnx(model([RELU], initializers=(stored,)).SerializeToString(), file="m.onnx")


def test_the_walk_finds_what_onnx_finds(pristine_bundle: Path) -> None:
    for name in ("model.onnx", "model.int8.onnx"):
        data = (pristine_bundle / name).read_bytes()
        facts, parsed = check_onnx(data, file=name), onnx.load_from_string(data)
        assert {f"{node.domain}:{node.op_type}" for node in parsed.graph.node} == facts.operators
        assert [entry.name for entry in parsed.graph.input] == list(facts.inputs)
        assert [entry.name for entry in parsed.graph.output] == list(facts.outputs)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80" * 20,
        b"\x3a\x00\x00\x00",
        b"\x3a\x05\x00",
        b"\x38\x01",
        b"\x3a\x02\x0b\x0c",
        b"\x3a\x05\x0a\x03\x22\x01\xff",
        pickle.dumps([1, 2]),
    ],
)
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^m\.onnx: "):
        check_onnx(data, file="m.onnx")


@given(data=st.binary(max_size=200))
def test_any_bytes_are_walked_or_refused(data: bytes) -> None:
    with suppress(BundleError):
        check_onnx(data, file="m.onnx")


@given(data=st.data())
def test_a_broken_model_raises_nothing_but_a_bundle_error(pristine_bundle: Path, data: st.DataObject) -> None:
    whole = bytearray((pristine_bundle / "model.onnx").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[place] ^= data.draw(st.integers(1, 255))
    with suppress(BundleError):
        check_onnx(bytes(whole), file="m.onnx")


# .npy


def npy(header: str, data: bytes = b"", *, version: tuple[int, int] = (1, 0)) -> bytes:
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header) + 1)
    return b"\x93NUMPY" + bytes(version) + size + header.encode() + b"\n" + data


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([print], dtype=object), allow_pickle=True)
    return file.getvalue()


def header(descr: str = "'<u8'", order: str = "False", shape: str = "(1, 2)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickled(), "holds Python objects"),
        (npy(header("[('a', '<u8'), ('b', '|O')]", shape="(1,)"), bytes(16)), "holds Python objects"),
        (npy(header(shape="(1099511627776, 2)"), bytes(16)), "takes 17,592,186,044,"),
        (npy(header(shape="(-1, 2)"), bytes(16)), "not a .npy file"),
        (npy(header(shape="(10**9,)")), "not a .npy file"),
        (npy(header(shape="[1, 2]"), bytes(16)), "not a .npy file"),
        (npy(header(shape="(True,)"), bytes(8)), "not a .npy file"),
        (npy(header(shape="(1L, 2L)"), bytes(16)), "not a .npy file"),
        (npy(header("'no type'"), bytes(16)), "not a .npy file"),
        (npy(header("__import__('os').getcwd()"), bytes(16)), "not a .npy file"),
        (npy("(" * 5000), "not a .npy file"),
        (npy(header(), bytes(15)), "takes 84 bytes, the file has 83"),
        (npy(header() + " " * 20_000, bytes(16)), "a header of 20,"),
        (npy("{}"), "its header is {}"),
        (npy(header(), bytes(16), version=(3, 0)), "it begins with"),
        (b"\x93NUMPY", "it begins with"),
        (pickle.dumps([1, 2]), "it begins with"),
        (b"", "it begins with"),
    ],
)
def test_a_hostile_array_is_refused(small_bundle: Path, reseal: Reseal, data: bytes, message: str) -> None:
    (small_bundle / "vocabulary" / "0.slots.npy").write_bytes(data)
    reseal(small_bundle)
    with pytest.raises(BundleError) as caught:
        open_bundle(small_bundle)
    assert f"{small_bundle}: vocabulary/0.slots.npy: " in caught.value.message
    assert message in caught.value.message


@given(kind=st.sampled_from(["u1", "<i4", ">f8", "?", "<U3", "<M8[us]"]), shape=st.lists(st.integers(0, 4), max_size=3))
def test_every_honest_array_is_let_through(
    tmp_path_factory: pytest.TempPathFactory, kind: str, shape: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "honest.npy"
    np.save(path, np.zeros(shape, kind))
    check_npy(path, file="honest.npy")


def full(slots: np.ndarray[Any, Any]) -> None:
    slots[:] = 1, 2


def out_of_table(slots: np.ndarray[Any, Any]) -> None:
    slots[slots[:, 1] == 3] = 7, 1 << 40


def one_too_few(slots: np.ndarray[Any, Any]) -> None:
    slots[slots[:, 1] == 3] = 0


@pytest.mark.parametrize("change", [full, out_of_table, one_too_few])
def test_a_look_up_that_would_not_end_or_leave_its_table_is_refused(
    small_bundle: Path, reseal: Reseal, change: Callable[[np.ndarray[Any, Any]], None]
) -> None:
    path = small_bundle / "vocabulary" / "0.slots.npy"
    slots = np.load(path)
    change(slots)
    np.save(path, slots)
    reseal(small_bundle)
    with pytest.raises(BundleError, match=r"vocabulary/0\.slots\.npy: its 16 slots are not those of"):
        open_bundle(small_bundle)


@pytest.mark.parametrize(
    "document",
    ["", "[]", "3", "null", "{}", '{"tables": 3, "numerics": {}}', '{"tables": [1], "numerics": {}}', "[" * 10**5],
)
def test_vocabularies_that_are_none_are_refused(small_bundle: Path, reseal: Reseal, document: str) -> None:
    (small_bundle / "vocabulary" / "tables.json").write_text(document)
    reseal(small_bundle)
    with pytest.raises(BundleError, match="vocabulary"):
        open_bundle(small_bundle)


@pytest.mark.parametrize("rows", [-5, 0, 1, 10**30, "4", None, 4.5])
def test_tables_of_impossible_sizes_are_refused(small_bundle: Path, reseal: Reseal, rows: object) -> None:
    path = small_bundle / "vocabulary" / "tables.json"
    document = json.loads(path.read_text())
    document["tables"][1]["rows"] = rows
    path.write_text(json.dumps(document))
    reseal(small_bundle)
    with pytest.raises(BundleError, match="vocabulary"):
        open_bundle(small_bundle)


def test_a_spec_that_is_none_is_refused_by_its_name(small_bundle: Path, reseal: Reseal) -> None:
    for data in (b"", b"\xff", b"format = 1\nlabel = 3\n", b"a = [" * 1000):
        (small_bundle / "features.toml").write_bytes(data)
        reseal(small_bundle)
        with pytest.raises(BundleError, match=r"features\.toml"):
            open_bundle(small_bundle)


# .safetensors


def safetensors(body: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: tuple[object, ...] = (2,), offsets: tuple[object, ...] = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (b"\0\0\0", "in a file of 3"),
        (safetensors({}, length=1 << 62), "a header of 4,611,686,018,427,387,904 bytes"),
        (safetensors(b"{"), "not a .safetensors file"),
        (safetensors(b"\xff\xff"), "not a .safetensors file"),
        (safetensors(b"[" * 100_000), "not a .safetensors file"),
        (safetensors([]), "the header is no JSON object"),
        (safetensors({"t": 3}), "tensor 't' has an impossible header"),
        (safetensors({"t": entry("PICKLE")}, bytes(8)), "tensor 't' has an impossible header"),
        (safetensors({"t": entry(offsets=(0,))}, bytes(8)), "tensor 't' has an impossible header"),
        (
            safetensors({"t": entry(shape=(1 << 40,), offsets=(0, 1 << 42))}, bytes(8)),
            "its tensors take 4,398,046,511,104",
        ),
        (safetensors({"t": entry(shape=(3,))}, bytes(8)), "tensor 't', F32 [3], does not fit bytes 0 to 8"),
        (safetensors({"t": entry(shape=(-2,), offsets=(0, -8))}, bytes(8)), "does not fit"),
        (safetensors({"t": entry(offsets=(-8, 0))}, bytes(8)), "does not fit"),
        (safetensors({"t": entry(offsets=(8, 0))}, bytes(8)), "does not fit"),
        (safetensors({"t": entry(shape=(1.0, 2))}, bytes(8)), "does not fit"),
        (safetensors({"t": entry(shape=(2,) + (1,) * 40)}, bytes(8)), "does not fit"),
        (safetensors({"t": entry(offsets=(8, 16))}, bytes(16)), "tensor 't' begins at byte 8 of the data, expected 0"),
        (safetensors({"s": entry(), "t": entry()}, bytes(16)), "tensor 't' begins at byte 0 of the data, expected 8"),
        (safetensors({"t": entry()}, bytes(9)), "its tensors take 8 bytes, the file has 9"),
        (safetensors({"t": entry()}, bytes(7)), "its tensors take 8 bytes, the file has 7"),
    ],
)
def test_hostile_weights_are_refused(small_bundle: Path, reseal: Reseal, data: bytes, message: str) -> None:
    (small_bundle / "weights.safetensors").write_bytes(data)
    reseal(small_bundle)
    with pytest.raises(BundleError) as caught:
        open_bundle(small_bundle)
    assert f"{small_bundle}: weights.safetensors: " in caught.value.message
    assert message in caught.value.message


@given(
    kinds=st.lists(st.sampled_from(["?", "u1", "i2", "f2", "f4", "f8", "u8"]), max_size=4),
    shape=st.lists(st.integers(0, 4), max_size=3),
    notes=st.none() | st.just({"format": "np"}),
)
def test_honest_weights_are_let_through(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], shape: list[int], notes: dict[str, str] | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "honest.safetensors"
    path.write_bytes(save_tensors({f"{i}": np.zeros(shape, kind) for i, kind in enumerate(kinds)}, metadata=notes))
    check_safetensors(path, file="honest.safetensors")


# No pickle


def python_files() -> Iterator[Path]:
    for package in ("streamfm", "udfs", "connectors"):
        yield from (Path(__file__).resolve().parents[2] / package).rglob("*.py")


def test_nothing_in_the_packages_reads_a_pickle() -> None:
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for name in [*names, module]:
                assert name.partition(".")[0] not in {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, (
                    path
                )
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
