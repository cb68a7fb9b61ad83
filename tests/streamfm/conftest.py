"""A real bundle, small enough to be copied for every test that wants to break one."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest


@pytest.fixture(scope="session")
def pristine_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test may change: exported, proven and quantised like any other; only the weights are random."""
    # Imported here, so that the tests that need no bundle do not wait for torch.
    from streamfm.encoder import Encoder
    from streamfm.encoder.vocabulary import VALUES_SCHEMA, NumericStatistics, VocabularyWriter
    from streamfm.export import Provenance, Sample, Trained, export_bundle
    from streamfm.features import FeatureSpec
    from streamfm.model import DeepFM, ModelSettings

    spec = FeatureSpec.from_toml("""
        format = 1
        label = "clicked"

        [inputs]
        user = "VARCHAR"
        price = "DOUBLE"

        [features.user]
        kind = "categorical"

        [features.price]
        kind = "numeric"
    """)
    folder = tmp_path_factory.mktemp("pristine")
    writer = VocabularyWriter(folder / "vocabulary")
    writer.add_values("user", 2, [pa.record_batch([["ann", "bob"], [3, 2]], schema=VALUES_SCHEMA)])
    writer.add_rows("price", "number", 3)
    vocabularies = writer.finish({"price": NumericStatistics(mean=1.5, deviation=2.0)})
    encoder = Encoder(spec, vocabularies)
    users, prices = ["ann", "bob", "eve", None] * 8, [float(price) for price in range(32)]
    rows = encoder.encode({"user": pa.array(users), "price": pa.array(prices)}, 32)
    trained = Trained(
        model=DeepFM(encoder.layout, ModelSettings(factors=2, hidden=(3,)), seed=1),
        spec=spec,
        vocabularies=vocabularies,
        proof=Sample(rows=rows, labels=np.arange(32, dtype=np.float32) % 2),
        calibration=rows,
    )
    made = datetime(2026, 1, 31, 12, tzinfo=UTC)
    export_bundle(folder / "bundle", trained, Provenance(name="ctr", created_at=made, metrics={"auc": 0.75}))
    return folder / "bundle"


@pytest.fixture
def small_bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    """A copy of it, to be broken."""
    return Path(shutil.copytree(pristine_bundle, tmp_path / "bundle"))


Reseal = Callable[..., None]


@pytest.fixture(scope="session")
def reseal() -> Reseal:
    """The function that makes a changed bundle's manifest agree with it again, as an attacker would.

    It knows the checksums by what the documentation says, not by the code that is tested.
    """

    def change(folder: Path, *, digest: bool = True, **keys: Any) -> None:
        path = folder / "manifest.json"
        body = json.loads(path.read_text(encoding="utf-8"))
        if digest:
            body["files"] = digests_of(folder)
        body = {key: value for key, value in (body | keys).items() if value is not ...}
        path.write_bytes(sealed(body))

    return change


def digests_of(folder: Path) -> Mapping[str, Any]:
    """What a manifest says of the plain files in a folder."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            data = path.read_bytes()
            entries[path.relative_to(folder).as_posix()] = {
                "sha256": hashlib.sha256(data).hexdigest(),
                "size": len(data),
            }
    return entries


def sealed(body: Mapping[str, Any]) -> bytes:
    """A manifest's bytes: its checksum is the sha256 of the file in which the checksum is 64 zeros."""
    unsigned = json.dumps(dict(body) | {"checksum": "0" * 64}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return unsigned.replace("0" * 64, hashlib.sha256(unsigned.encode()).hexdigest(), 1).encode()


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """A block in which no file may grow beyond so many bytes, as on a disk that is full."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture(scope="session")
def first_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models and the log of a simulated store; no test may change it."""
    from shops import opened

    folder = tmp_path_factory.mktemp("shop")
    opened(folder)
    return folder


@pytest.fixture
def shop(first_shop: Path, tmp_path: Path) -> Any:
    """A copy of it, to go on with; a `shops.Shop`."""
    from shops import Shop

    return Shop.copied(first_shop, tmp_path / "shop")
