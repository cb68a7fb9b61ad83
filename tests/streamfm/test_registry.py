"""The registry by one process: versions, aliases, roll-back, references, pruning, verification."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamfm import files
from streamfm.bundle import open_bundle, read_manifest
from streamfm.errors import BundleError, RegistryError
from streamfm.registry import Holder, Registry, Surroundings, current, hold, parse_reference, resolve
from streamfm.registry.aliases import KEPT_MOVES, AliasLog, Move
from streamfm.registry.leases import STALE_AFTER_S, LeaseBook
from streamfm.registry.pruning import ABANDONED_AFTER_S

ELSEWHERE = Holder(host="elsewhere", machine="another boot", pid=7, started=1)
Fill = Callable[..., Registry]


@pytest.fixture
def fill(pristine_bundle: Path, tmp_path: Path) -> Fill:
    """The function that publishes so many versions of `ctr`, the last as champion."""

    def publish(versions: int, *, surroundings: Surroundings | None = None) -> Registry:
        registry = Registry(tmp_path / "models", surroundings=surroundings)
        for _ in range(versions):
            registry.publish(pristine_bundle, "ctr", alias="champion", keep_source=True)
        return registry

    return publish


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    # A published file may share its bytes with no other, but a test's copy of it might.
    path.unlink()
    path.write_bytes(data)


# Publishing


def test_versions_are_numbered_from_one(fill: Fill) -> None:
    registry = fill(3)
    assert (1, 2, 3) == registry.model("ctr").versions
    assert {"champion": 3} == registry.model("ctr").aliases


def test_a_published_bundle_knows_its_name_and_number(small_bundle: Path, tmp_path: Path) -> None:
    before = read_manifest(small_bundle)
    info = Registry(tmp_path / "models").publish(small_bundle, "app-store.v2")
    assert (info.name, info.version, info.aliases) == ("app-store.v2", 1, ())
    assert info.path == tmp_path / "models" / "app-store.v2" / "1"
    assert replace(before, name="app-store.v2", version=1) == info.manifest == open_bundle(info.path).manifest


def test_publishing_moves_the_bundle(small_bundle: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    registry.publish(small_bundle, "ctr")
    assert not small_bundle.exists()
    assert ["1", "aliases", "leases", "numbers"] == sorted(
        path.name for path in (tmp_path / "models" / "ctr").iterdir()
    )


def test_a_kept_source_shares_no_bytes_with_its_version(small_bundle: Path, tmp_path: Path) -> None:
    info = Registry(tmp_path / "models").publish(small_bundle, "ctr", keep_source=True)
    for path in small_bundle.rglob("*.*"):
        assert not path.samefile(info.path / path.relative_to(small_bundle))
    open_bundle(small_bundle)


def test_a_version_of_a_registry_is_copied_never_moved(fill: Fill, tmp_path: Path) -> None:
    source = fill(1)
    info = source.publish(tmp_path / "models" / "ctr" / "1", "other")
    assert ("other", 1) == (info.manifest.name, info.manifest.version)
    assert [None, None, None] == [found.error for found in source.verify()]


def test_a_bundle_reached_through_a_link_is_copied(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(small_bundle)
    Registry(tmp_path / "models").publish(tmp_path / "link", "ctr")
    open_bundle(small_bundle)


def test_publishing_works_across_file_systems(small_bundle: Path, pristine_bundle: Path, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    source = Path(shutil.copytree(pristine_bundle, other / f"streamfm-test-{files.token()}"))
    try:
        Registry(tmp_path / "models").publish(source, "ctr")
        assert not source.exists()
    finally:
        files.remove_tree(source)
    open_bundle(tmp_path / "models" / "ctr" / "1")


def test_a_broken_bundle_is_not_published(small_bundle: Path, tmp_path: Path) -> None:
    flip_a_byte(small_bundle / "model.onnx")
    registry = Registry(tmp_path / "models")
    with pytest.raises(BundleError, match=rf"{small_bundle}: model\.onnx: sha256"):
        registry.publish(small_bundle, "ctr", alias="champion")
    assert ((), {}) == (registry.model("ctr").versions, registry.model("ctr").aliases)
    assert small_bundle.exists()
    assert ["aliases", "leases", "numbers"] == sorted(path.name for path in (tmp_path / "models" / "ctr").iterdir())


def test_a_bundle_with_a_link_in_it_is_not_published(small_bundle: Path, tmp_path: Path) -> None:
    (small_bundle / "more.json").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match=r"more\.json: is not a plain file"):
        Registry(tmp_path / "models").publish(small_bundle, "ctr")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../ctr", "a/b", "a\\b", ".ctr", "-ctr", "c t r", "é", "a" * 101, "a\n"]
)
def test_a_name_that_is_none_is_refused(small_bundle: Path, tmp_path: Path, name: str) -> None:
    registry = Registry(tmp_path / "models")
    with pytest.raises(RegistryError, match="cannot be the name of a model"):
        registry.publish(small_bundle, name)
    for call in (registry.model, registry.rollback, registry.current, registry.verify):
        with pytest.raises(RegistryError, match="cannot be the name of a model"):
            call(name)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("alias", ["", "..", "a/b", "3", ".x"])
def test_an_alias_that_is_none_is_refused_before_anything_happens(
    small_bundle: Path, tmp_path: Path, alias: str
) -> None:
    with pytest.raises(RegistryError):
        Registry(tmp_path / "models").publish(small_bundle, "ctr", alias=alias)
    assert not (tmp_path / "models").exists()


def test_a_folder_that_is_no_model_is_left_alone(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "ctr").mkdir(parents=True)
    (tmp_path / "models" / "ctr" / "thesis.tex").write_text("")
    with pytest.raises(RegistryError, match="is there, and is no model"):
        Registry(tmp_path / "models").publish(small_bundle, "ctr")
    (tmp_path / "models" / "file").write_text("")
    with pytest.raises(RegistryError, match="is there, and is no model"):
        Registry(tmp_path / "models").publish(small_bundle, "file")


def test_a_number_is_never_given_twice(fill: Fill, tmp_path: Path) -> None:
    registry = fill(3)
    for version in (2, 3):
        shutil.rmtree(tmp_path / "models" / "ctr" / str(version))
    fill(1)
    assert (1, 4) == registry.model("ctr").versions


def test_a_version_put_there_by_hand_is_not_overwritten(fill: Fill, tmp_path: Path) -> None:
    registry = fill(1)
    shutil.copytree(tmp_path / "models" / "ctr" / "1", tmp_path / "models" / "ctr" / "7")
    assert (1, 7, 8) == fill(1).model("ctr").versions
    bad = [found for found in registry.verify("ctr") if found.error is not None]
    assert [f"{tmp_path}/models/ctr/7"] == [found.reference for found in bad]
    assert "the bundle is ctr/1, expected ctr/7" in str(bad[0].error)


# Aliases


def test_an_alias_moves_and_its_history_tells(fill: Fill) -> None:
    now = [1_000_000.0]
    registry = fill(3, surroundings=Surroundings(clock=lambda: now[0]))
    now[0] += 60
    move = registry.promote("ctr", 1)
    assert (4, 1, (1, 2, 3), "promote") == (move.sequence, move.version, move.earlier, move.kind)
    assert "1970-01-12T13:47:40+00:00" == move.moved_at
    assert [1, 2, 3, 1] == [entry.version for entry in registry.history("ctr")]
    assert f":{os.getpid()}" in move.moved_by


def test_promoting_what_is_there_already_changes_nothing(fill: Fill) -> None:
    registry = fill(2)
    assert registry.history("ctr")[-1] == registry.promote("ctr", 2)
    assert 2 == len(registry.history("ctr"))


def test_a_move_that_expects_another_version_is_refused(fill: Fill) -> None:
    registry = fill(3)
    with pytest.raises(RegistryError, match=r"ctr@champion is at 3, expected 2"):
        registry.promote("ctr", 1, expected=2)
    with pytest.raises(RegistryError, match=r"ctr@champion is at 3, expected no such alias"):
        registry.promote("ctr", 1, expected=0)
    with pytest.raises(RegistryError, match=r"ctr@canary is not set, expected 3"):
        registry.promote("ctr", 1, "canary", expected=3)
    assert 3 == registry.current("ctr")
    registry.promote("ctr", 1, expected=3)
    registry.promote("ctr", 2, "canary", expected=0)
    assert {"champion": 1, "canary": 2} == registry.model("ctr").aliases


def test_a_broken_version_is_not_promoted(fill: Fill, tmp_path: Path) -> None:
    registry = fill(2)
    flip_a_byte(tmp_path / "models" / "ctr" / "1" / "weights.safetensors")
    with pytest.raises(BundleError, match=r"ctr/1: weights\.safetensors: sha256"):
        registry.promote("ctr", 1)
    with pytest.raises(BundleError, match=r"ctr/1: weights\.safetensors: sha256"):
        registry.rollback("ctr")
    assert 2 == registry.current("ctr")


def test_rolling_back_goes_one_promotion_further_each_time(fill: Fill) -> None:
    registry = fill(3)
    assert [2, 1] == [registry.rollback("ctr").version for _ in range(2)]
    with pytest.raises(RegistryError, match="is at 1, and was nowhere before"):
        registry.rollback("ctr")
    registry.promote("ctr", 3)
    assert 1 == registry.rollback("ctr").version
    assert ["promote", "promote", "promote", "rollback", "rollback", "promote", "rollback"] == [
        move.kind for move in registry.history("ctr")
    ]


def test_rolling_back_to_what_is_gone_says_what_there_is(fill: Fill, tmp_path: Path) -> None:
    registry = fill(3)
    shutil.rmtree(tmp_path / "models" / "ctr" / "2")
    with pytest.raises(RegistryError, match=r"version 2 was pruned.*\n.*it has versions 1, 3"):
        registry.rollback("ctr")
    assert 3 == registry.current("ctr")


class AliasModel(RuleBasedStateMachine):
    """An alias against the plainest thing that it could be: a list of versions."""

    @initialize()
    def start(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.log = AliasLog(Path(self.folder.name) / "champion")
        self.stack: list[int] = []
        self.moves = 0

    def move(self, version: int, earlier: tuple[int, ...]) -> None:
        head = self.log.head()
        self.moves += 1
        number = head.sequence + 1 if head else 1
        move = Move(sequence=number, version=version, earlier=earlier, kind="promote", moved_at="", moved_by="")
        assert self.log.append(move)
        assert not self.log.append(move)

    @rule(version=st.integers(1, 9))
    def promote(self, version: int) -> None:
        self.move(version, tuple(self.stack))
        self.stack.append(version)

    @precondition(lambda self: len(self.stack) > 1)
    @rule()
    def rollback(self) -> None:
        self.stack.pop()
        self.move(self.stack[-1], tuple(self.stack[:-1]))

    @rule()
    def compact(self) -> None:
        self.log.compact()

    @invariant()
    def is_where_it_was_put(self) -> None:
        head = self.log.head()
        assert (head.version if head else None) == (self.stack[-1] if self.stack else None)
        assert self.moves == (head.sequence if head else 0)

    def teardown(self) -> None:
        self.folder.cleanup()


TestAliasModel = AliasModel.TestCase
TestAliasModel.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)


def test_history_is_cleared_away_but_never_what_rolling_back_needs(tmp_path: Path) -> None:
    log = AliasLog(tmp_path / "champion")
    moves = KEPT_MOVES + 30
    for number in range(1, moves + 1):
        earlier = tuple(range(1, number))[-100:]
        log.append(Move(sequence=number, version=number, earlier=earlier, kind="promote", moved_at="", moved_by=""))
    log.compact()
    assert list(range(31, moves + 1)) == [move.sequence for move in log.moves()]
    head = log.head()
    assert head is not None
    assert (moves, moves - 1, 100) == (head.version, head.earlier[-1], len(head.earlier))


def test_a_process_that_slept_through_a_hundred_moves_has_lost(tmp_path: Path) -> None:
    log = AliasLog(tmp_path / "champion")
    late = Move(sequence=2, version=1, earlier=(), kind="promote", moved_at="", moved_by="")
    for number in range(1, KEPT_MOVES + 4):
        log.append(replace(late, sequence=number, version=5))
    log.compact()
    assert not log.append(late)
    assert 4 == min(move.sequence for move in log.moves())


def test_a_move_that_a_crash_has_emptied_does_not_stop_the_alias(fill: Fill, tmp_path: Path) -> None:
    registry = fill(2)
    (tmp_path / "models" / "ctr" / "aliases" / "champion" / "00000003").mkdir()
    assert 2 == registry.current("ctr")
    registry.promote("ctr", 1)
    assert 1 == registry.current("ctr")


def test_an_alias_that_cannot_be_read_names_its_file(fill: Fill, tmp_path: Path) -> None:
    registry = fill(1)
    path = tmp_path / "models" / "ctr" / "aliases" / "champion" / "00000001" / "move.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": "1"'))
    with pytest.raises(RegistryError, match=r"move\.json: key version: expected a whole number"):
        registry.current("ctr")


# References


def test_a_reference_is_an_alias_a_version_or_a_folder(fill: Fill, small_bundle: Path, tmp_path: Path) -> None:
    fill(2).promote("ctr", 1, "canary")
    root = tmp_path / "models"
    by_alias, by_version, by_path = (resolve(text) for text in (f"{root}/ctr@canary", f"{root}/ctr/2/", small_bundle))
    assert (root / "ctr" / "1", "ctr", 1, "canary") == (by_alias.path, by_alias.name, by_alias.version, by_alias.alias)
    assert (root / "ctr" / "2", "ctr", 2, None) == (
        by_version.path,
        by_version.name,
        by_version.version,
        by_version.alias,
    )
    assert (small_bundle, "ctr", None, None) == (by_path.path, by_path.name, by_path.version, by_path.alias)
    assert [1, 2, None] == [current(text) for text in (f"{root}/ctr@canary", f"{root}/ctr/2", small_bundle)]


def test_references_may_be_relative(fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(1)
    monkeypatch.chdir(tmp_path / "models")
    assert [Path("ctr/1")] * 2 == [resolve("ctr@champion").path, resolve("ctr/1").path]
    monkeypatch.chdir(tmp_path / "models" / "ctr")
    assert 1 == resolve("1").version


def test_a_bundle_may_be_called_anything(small_bundle: Path, tmp_path: Path) -> None:
    for name in ("2026", "me@home", "v1.0"):
        path = Path(shutil.copytree(small_bundle, tmp_path / "runs" / name))
        assert path == resolve(path).path == resolve(str(path)).path
        assert parse_reference(path).name is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models/ctr@champoin", "there is no alias 'champoin'\nhint: did you mean 'champion'?"),
        ("models/ctr@zzz", "hint: versions 1, 2; aliases: champion"),
        ("models/crt@champion", "there is no model 'crt'\nhint: did you mean 'ctr'?"),
        ("models/ctr/9", "version 9 was never published\nhint: it has versions 1, 2"),
        ("models/ctr/0", "there is no such folder"),
        (
            "models/ctr",
            "models/ctr is a model, not one of its versions\nhint: write models/ctr@champion or models/ctr/1",
        ),
        ("models", "models is a registry, not a model's version\nhint: write models/ctr@champion"),
        ("model/ctr@champion", "there is no model 'ctr'\nhint: the folder does not exist; models: none"),
        ("models/ctr@", "'' cannot be the name of an alias"),
        ("models/ctr@2", "alias '2' is a number\nhint: a version is written models/ctr/2"),
        ("models/@champion", "'' cannot be the name of a model"),
        ("models/../../ctr@champion", "there is no model 'ctr'"),
        ("models/..@champion", "'..' cannot be the name of a model"),
        ("", "'' is no reference"),
        ("a\0b", "is no reference"),
        ("nowhere", "there is no such folder"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_there_is(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, message: str
) -> None:
    fill(2)
    monkeypatch.chdir(tmp_path)
    for look in (resolve, current, hold):
        with pytest.raises((RegistryError, BundleError)) as caught:
            look(reference)
        assert message in str(caught.value)


def test_an_alias_to_a_version_that_is_gone_says_so(fill: Fill, tmp_path: Path) -> None:
    registry = fill(2)
    shutil.rmtree(tmp_path / "models" / "ctr" / "2")
    with pytest.raises(RegistryError, match="version 2 was pruned"):
        resolve(tmp_path / "models" / "ctr@champion")
    bad = [found.reference for found in registry.verify() if found.error is not None]
    assert [f"{tmp_path}/models/ctr@champion"] == bad


@given(text=st.text(max_size=30))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        parse_reference(text)
    except RegistryError as error:
        assert error.hint  # noqa: PT017


# Looking


def test_a_registry_that_is_not_there_has_no_models(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    assert ([], []) == (registry.list(), registry.verify())
    with pytest.raises(RegistryError, match="there is no model 'ctr'"):
        registry.model("ctr")


def test_a_list_tells_models_versions_and_aliases(fill: Fill, small_bundle: Path, tmp_path: Path) -> None:
    registry = fill(2)
    registry.publish(small_bundle, "app")
    (tmp_path / "models" / "README").write_text("not a model")
    assert [("app", (1,), {}), ("ctr", (1, 2), {"champion": 2})] == [
        (model.name, model.versions, model.aliases) for model in registry.list()
    ]


def test_a_version_shows_what_it_says_of_itself(fill: Fill) -> None:
    info = fill(2).show("ctr", 2)
    assert (("champion",), {"auc": 0.75}) == (info.aliases, info.manifest.metrics)
    with pytest.raises(RegistryError, match="version 3 was never published"):
        fill(0).show("ctr", 3)


def test_verifying_reads_every_byte_of_every_version(fill: Fill, tmp_path: Path) -> None:
    registry = fill(3)
    assert [None] * 4 == [found.error for found in registry.verify()]
    flip_a_byte(tmp_path / "models" / "ctr" / "2" / "vocabulary" / "0.values.arrow")
    found = {verified.reference: verified.error for verified in registry.verify("ctr")}
    assert [f"{tmp_path}/models/ctr/2"] == [reference for reference, error in found.items() if error]
    assert "vocabulary/0.values.arrow: sha256" in str(found[f"{tmp_path}/models/ctr/2"])


# Pruning


def test_pruning_keeps_the_newest_the_champion_and_the_way_back(fill: Fill) -> None:
    registry = fill(6)
    registry.promote("ctr", 2)
    registry.promote("ctr", 4, "canary")
    pruned = registry.prune("ctr", keep=1)
    assert ((1, 3, 5), {2: "is champion", 4: "is canary"}) == (pruned.removed, pruned.kept)
    registry.promote("ctr", 4)
    assert ((), {2: "champion would roll back to it", 4: "is canary"}) == (
        registry.prune("ctr", keep=1).removed,
        registry.prune("ctr", keep=1).kept,
    )
    assert 2 == registry.rollback("ctr").version


@pytest.mark.parametrize("keep", [0, -1])
def test_the_newest_version_always_stays(fill: Fill, keep: int) -> None:
    with pytest.raises(RegistryError, match="expected at least 1"):
        fill(1).prune("ctr", keep=keep)
    assert (1,) == fill(0).model("ctr").versions


def test_a_held_version_is_not_pruned_until_it_is_released(fill: Fill, tmp_path: Path) -> None:
    registry = fill(4)
    with hold(tmp_path / "models" / "ctr" / "1") as held:
        assert (2,) == registry.prune("ctr", keep=1).removed
        assert "ctr" == open_bundle(held.resolved.path).manifest.name
        assert f":{os.getpid()}" in registry.prune("ctr", keep=1).kept[1]
    assert (1,) == registry.prune("ctr", keep=1).removed
    with pytest.raises(RegistryError, match=r"version 1 was pruned.*\n.*it has versions 3, 4"):
        hold(tmp_path / "models" / "ctr" / "1")


def test_a_lease_ends_when_nobody_has_it_any_more(fill: Fill) -> None:
    registry = fill(4)
    lease = registry.hold("ctr", 1)
    assert (2,) == registry.prune("ctr", keep=1).removed
    del lease
    assert (1,) == registry.prune("ctr", keep=1).removed


def test_a_lease_ends_with_its_process(fill: Fill, tmp_path: Path) -> None:
    registry = fill(4)
    code = """
        import os, sys
        from streamfm.registry import hold
        held = hold(sys.argv[1])
        print("held", flush=True)
        sys.stdin.read()
        os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "models" / "ctr" / "1")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert "held\n" == child.stdout.readline()
        assert {1: f"held by {Holder.here().host}:{child.pid}"} == {
            version: reason for version, reason in registry.prune("ctr", keep=1).kept.items() if version == 1
        }
    assert 1 == len(list((tmp_path / "models" / "ctr" / "leases").iterdir()))
    assert (1,) == registry.prune("ctr", keep=1).removed
    assert [] == list((tmp_path / "models" / "ctr" / "leases").iterdir())


def test_another_machines_lease_ends_when_its_heart_has_stopped(fill: Fill, tmp_path: Path) -> None:
    now = [time.time()]
    registry = fill(4, surroundings=Surroundings(clock=lambda: now[0]))
    book = LeaseBook(tmp_path / "models" / "ctr" / "leases", clock=lambda: now[0], holder=lambda: ELSEWHERE)
    lease = book.take(1)
    now[0] += STALE_AFTER_S - 1
    assert {1: "held by elsewhere:7", 3: "champion would roll back to it"} == registry.prune("ctr", keep=1).kept
    now[0] += 2
    assert (1,) == registry.prune("ctr", keep=1).removed
    lease.release()


def test_the_heart_of_a_lease_beats(tmp_path: Path) -> None:
    now = [time.time()]
    book = LeaseBook(tmp_path, clock=lambda: now[0], holder=lambda: ELSEWHERE, heartbeat_s=0.01)
    with book.take(3):
        (path,) = tmp_path.iterdir()
        now[0] += 1000
        deadline = time.monotonic() + 20
        while path.stat().st_mtime < now[0] - 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [3] == [held.version for held in book.readers(3)]
        path.unlink()
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.exists()
    time.sleep(0.05)
    assert [] == list(tmp_path.iterdir())


def test_a_lease_outlives_a_change_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lease = LeaseBook(Path("leases"), clock=time.time, holder=lambda: ELSEWHERE).take(3)
    monkeypatch.chdir("/")
    lease.release()
    assert [] == list((tmp_path / "leases").iterdir())


def test_a_lease_that_is_still_being_written_holds(fill: Fill, tmp_path: Path) -> None:
    registry = fill(4)
    (tmp_path / "models" / "ctr" / "leases" / "1-abc.json").write_text("")
    assert 1 in registry.prune("ctr", keep=1).kept


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder one that cannot be written to; root may write anywhere but to a read-only file system."""
    if os.geteuid() != 0:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555)
        yield
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        return
    if subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_registry_that_cannot_be_written_is_read_without_leases(
    fill: Fill, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = fill(3)
    with read_only(tmp_path / "models"):
        with hold(tmp_path / "models" / "ctr/1") as held:
            assert 1 == open_bundle(held.resolved.path).manifest.version
        assert 3 == registry.current("ctr")
        for change in (lambda: registry.promote("ctr", 1, "canary"), lambda: registry.prune("ctr", keep=1)):
            with pytest.raises(RegistryError, match=r"models: cannot be changed: .*(Read-only|Permission)"):
                change()
    assert "version 1 is read without a lease" in caplog.text


def test_a_pruner_keeps_new_readers_away(fill: Fill, tmp_path: Path) -> None:
    slept: list[float] = []
    surroundings = Surroundings(sleep=slept.append)
    fill(2)
    book = LeaseBook(tmp_path / "models" / "ctr" / "leases", clock=time.time, holder=Holder.here)
    intent = book.claim(1)
    assert intent is not None
    assert book.claim(1) is None
    with pytest.raises(RegistryError, match="ctr/1 is being pruned"):
        hold(tmp_path / "models" / "ctr" / "1", surroundings=surroundings)
    assert slept
    assert [intent] == list((tmp_path / "models" / "ctr" / "leases").iterdir())
    intent.unlink()
    hold(tmp_path / "models" / "ctr" / "1").release()


def test_the_intent_of_a_dead_pruner_stops_nobody(fill: Fill, tmp_path: Path) -> None:
    registry = fill(4)
    dead = replace(Holder.here(), pid=2**22 + 1)
    book = LeaseBook(tmp_path / "models" / "ctr" / "leases", clock=time.time, holder=lambda: dead)
    assert book.claim(1) is not None
    hold(tmp_path / "models" / "ctr" / "1").release()
    assert (1, 2) == registry.prune("ctr", keep=1).removed


def test_what_a_killed_pruner_has_left_is_put_back_or_removed(fill: Fill, tmp_path: Path) -> None:
    registry = fill(5)
    model = tmp_path / "models" / "ctr"
    registry.promote("ctr", 2)
    for version in (1, 2, 3):
        (model / str(version)).rename(model / f".pruned-{version}-abc")
    (model / ".pruned-3-abc" / "model.onnx").unlink()
    assert (4,) == registry.prune("ctr", keep=1).removed
    assert (2, 5) == registry.model("ctr").versions
    assert [] == [path.name for path in model.iterdir() if path.name.startswith(".")]
    assert [None, None, None] == [found.error for found in registry.verify()]


def test_what_a_killed_publisher_has_left_is_removed_after_a_day(fill: Fill, tmp_path: Path) -> None:
    now = [time.time()]
    registry = fill(1, surroundings=Surroundings(clock=lambda: now[0]))
    staging = tmp_path / "models" / "ctr" / ".staging-abc"
    (staging / "vocabulary").mkdir(parents=True)
    registry.prune("ctr", keep=1)
    assert staging.exists()
    now[0] += ABANDONED_AFTER_S + 60
    registry.prune("ctr", keep=1)
    assert not staging.exists()


def test_everything_on_the_disk_is_text_or_a_bundle(fill: Fill, tmp_path: Path) -> None:
    fill(1)
    move = json.loads((tmp_path / "models" / "ctr" / "aliases" / "champion" / "00000001" / "move.json").read_text())
    assert {"sequence", "version", "earlier", "kind", "moved_at", "moved_by"} == set(move)
    assert "Z" not in move["moved_at"]
    assert move["moved_at"].endswith("+00:00")


def test_a_lease_without_room_is_refused_by_name_and_leaves_nothing(fill: Fill, tmp_path: Path) -> None:
    registry = fill(1)
    leases = tmp_path / "models" / "ctr" / "leases"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match=f"'{leases}/1-[0-9a-f]+.json'"):
            registry.hold("ctr", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [] == list(leases.iterdir())
