"""streamfm.stream.serving: versions that take over, versions that are refused, a second model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streamfm.errors import BundleError, RegistryError, StreamError
from streamfm.registry import Registry
from streamfm.scoring import Scorer
from streamfm.stream.ports import Event
from streamfm.stream.serving import RETRY_S, ServedModels
from streamfm.stream.settings import StreamSettings
from streamfm.testing import FakeClock

Publish = Callable[..., None]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "models").mkdir()
    return Registry(tmp_path / "models")


@pytest.fixture
def publish(registry: Registry, pristine_bundle: Path, tmp_path: Path) -> Publish:
    """Publishes another version of a model; models `ctr` and `other` have a champion already."""

    def publish(name: str, *, alias: str | None = None) -> None:
        shutil.copytree(pristine_bundle, tmp_path / "next")
        registry.publish(tmp_path / "next", name, alias=alias)

    for name in ("ctr", "other"):
        publish(name, alias="champion")
    return publish


def serve(registry: Registry, clock: FakeClock, *, shadow: str | None = None, **settings: object) -> ServedModels:
    return ServedModels(
        registry.root / "ctr@champion",
        StreamSettings(**settings),  # type: ignore[arg-type]
        shadow=None if shadow is None else registry.root / shadow,
        clock=clock.monotonic,
    )


def version(models: ServedModels) -> int | None:
    return models.current().scorer.version


def spoil(registry: Registry, name: str, number: int) -> None:
    """Change a byte of a version's network."""
    network = registry.root / name / str(number) / "model.onnx"
    network.chmod(0o644)
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 1
    network.write_bytes(data)


def test_a_new_champion_takes_over(registry: Registry, publish: Publish) -> None:
    models = serve(registry, FakeClock())
    assert not models.refresh()
    publish("ctr", alias="champion")
    assert 1 == version(models)
    assert models.refresh()
    assert (2, 1) == (version(models), models.swaps)


def test_who_answers_stands_in_the_answer(registry: Registry, publish: Publish) -> None:
    models = serve(registry, FakeClock(), event_id="")
    publish("ctr", alias="champion")
    models.refresh()
    answers = models.current().answer([Event("t", 0, 0, 0, None, b'{"user": "ann"}')], 0).answers
    assert [("streamfm.model", b"ctr/2")] == list(answers.headers)


def test_a_champion_that_is_refused_leaves_the_one_before(
    registry: Registry, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    models = serve(registry, clock)
    publish("ctr")
    registry.promote("ctr", 2)
    spoil(registry, "ctr", 2)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not models.refresh()
            clock.sleep(RETRY_S)
    assert (1, 0, 3) == (version(models), models.swaps, models.refusals)
    assert ["version 2 is refused"] == [
        "version 2 is refused" for record in caplog.records if "version 2 is refused" in record.getMessage()
    ]
    assert "model.onnx" in caplog.text


def test_whatever_loading_fails_with_is_a_refusal(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    models = serve(registry, clock)
    publish("ctr", alias="champion")

    def no_memory(_: object) -> Scorer:
        raise MemoryError("4 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(models._champion, "_load", no_memory)
        assert [False] * 3 == [models.refresh() for _ in range(3)]
    assert (1, 1) == (version(models), models.refusals)
    assert ["version 2 is refused, what served goes on: 4 GiB"] == [
        record.getMessage().partition(": ")[2] for record in caplog.records
    ]
    clock.sleep(RETRY_S)
    assert models.refresh()
    assert 2 == version(models)


def test_a_refused_champion_is_not_tried_at_every_look(registry: Registry, publish: Publish) -> None:
    clock = FakeClock()
    models = serve(registry, clock)
    publish("ctr")
    registry.promote("ctr", 2)
    spoil(registry, "ctr", 2)
    for _ in range(3):
        models.refresh()
    assert 1 == models.refusals


def test_the_one_after_a_refused_champion_takes_over_at_once(registry: Registry, publish: Publish) -> None:
    models = serve(registry, FakeClock())
    publish("ctr")
    registry.promote("ctr", 2)
    spoil(registry, "ctr", 2)
    models.refresh()
    publish("ctr", alias="champion")
    assert models.refresh()
    assert 3 == version(models)


def test_a_roll_back_takes_over_too(registry: Registry, publish: Publish) -> None:
    models = serve(registry, FakeClock())
    publish("ctr", alias="champion")
    models.refresh()
    registry.rollback("ctr")
    assert models.refresh()
    assert 1 == version(models)


def test_a_registry_that_cannot_be_read_leaves_what_serves(registry: Registry, publish: Publish) -> None:
    models = serve(registry, FakeClock())
    registry.root.rename(registry.root.with_name("away"))
    assert not models.refresh()
    assert (1, 1) == (version(models), models.refusals)
    registry.root.with_name("away").rename(registry.root)
    assert not models.refresh()
    assert 1 == models.refusals


def test_the_first_champion_must_be_right(registry: Registry, publish: Publish) -> None:
    spoil(registry, "ctr", 1)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        serve(registry, FakeClock())


def test_settings_that_do_not_go_with_the_model_are_refused_at_once(registry: Registry, publish: Publish) -> None:
    with pytest.raises(StreamError, match="score"):
        serve(registry, FakeClock(), keep=("score",))


def test_a_shadow_answers_beside_the_champion_and_is_followed(registry: Registry, publish: Publish) -> None:
    models = serve(registry, FakeClock(), shadow="other@champion")
    shadow = models.current().shadow
    assert shadow is not None
    assert ("other", 1) == (shadow.name, shadow.version)
    publish("other", alias="champion")
    assert models.refresh()
    shadow = models.current().shadow
    assert shadow is not None
    assert (2, 1) == (shadow.version, version(models))


def test_a_shadow_that_is_not_there_hurts_nobody_and_comes_later(registry: Registry, publish: Publish) -> None:
    models = serve(registry, FakeClock(), shadow="other@challenger")
    assert models.current().shadow is None
    assert 1 == models.refusals
    registry.promote("other", 1, alias="challenger")
    assert models.refresh()
    assert models.current().shadow is not None


def test_a_shadow_that_is_refused_does_not_hold_the_champion_back(registry: Registry, publish: Publish) -> None:
    models = serve(registry, FakeClock(), shadow="other@champion")
    publish("other")
    registry.promote("other", 2)
    spoil(registry, "other", 2)
    publish("ctr", alias="champion")
    assert models.refresh()
    shadow = models.current().shadow
    assert shadow is not None
    assert (2, 1) == (version(models), shadow.version)


def test_the_event_id_is_the_specification_s_unless_said_otherwise() -> None:
    bundle = Path(__file__).resolve().parents[1] / "data" / "bundle_v1"
    event = [Event("t", 0, 0, 0, None, b'{"user_id": "u1"}')]
    for event_id, dead_letters in ((None, 1), ("", 0)):
        models = ServedModels(bundle, StreamSettings(event_id=event_id), clock=FakeClock().monotonic)
        assert dead_letters == len(models.current().answer(event, 0).answers.dead_letters)


def test_a_model_that_is_not_there_is_an_error(registry: Registry) -> None:
    with pytest.raises(RegistryError):
        ServedModels(registry.root / "nobody@champion", StreamSettings(), clock=FakeClock().monotonic)
