"""The options of `streamfm stream`: three places, one name, one precedence."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from connectors.kafka_settings import KafkaSettings
from streamfm.cli import stream_parts
from streamfm.cli.stream_operation import Operation
from streamfm.cli.streaming import OF_KAFKA, stream
from streamfm.errors import StreamError
from streamfm.stream.settings import StreamSettings

ROOT = Path(__file__).resolve().parents[3]
LEAST = ("models/ctr@champion", "--in", "events", "--out", "scores")


def parse(*arguments: str) -> dict[str, Any]:
    with stream.make_context("stream", list(arguments)) as context:
        return dict(context.params)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """Writes the file, and gives its arguments."""

    def write(text: str) -> tuple[str, str]:
        (tmp_path / "stream.toml").write_text(text, encoding="utf-8")
        return "--config", str(tmp_path / "stream.toml")

    return write


def test_the_file_gives_what_nobody_else_does(config) -> None:
    given = parse(*config('reference = "models/ctr/3"\nin = "e"\nout = "s"\nmax_lag = 7\nlogit = true\nlinger_s = 1'))
    found = {name: given[name] for name in ("reference", "source", "target", "max_lag", "with_logit", "linger_s")}
    expected = {
        "reference": "models/ctr/3", "source": "e", "target": "s", "max_lag": 7, "with_logit": True, "linger_s": 1.0,
    }  # fmt: skip
    assert expected == found


def test_the_environment_goes_before_the_file(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFM_MAX_LAG", "8")
    monkeypatch.setenv("STREAMFM_REFERENCE", "models/ctr/4")
    given = parse("--in", "e", "--out", "s", *config('max_lag = 7\nreference = "models/ctr/3"'))
    assert (8, "models/ctr/4") == (given["max_lag"], given["reference"])


def test_the_command_line_goes_before_both(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFM_MAX_LAG", "8")
    assert 9 == parse(*LEAST, "--max-lag", "9", *config("max_lag = 7"))["max_lag"]


def test_the_file_s_place_may_stand_in_the_environment(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFM_CONFIG", config("max_lag = 7")[1])
    assert 7 == parse(*LEAST)["max_lag"]


def test_client_options_are_gathered_from_all_places(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFM_KAFKA", "sasl_plain_password=secret security_protocol=SSL")
    file = config('[kafka]\nsecurity_protocol = "SASL_SSL"\nssl_check_hostname = false\nproducer.linger_ms = 5')
    given = parse(*LEAST, "--kafka", "sasl_plain_password=other", *file)
    expected = {
        "security_protocol": "SSL",
        "ssl_check_hostname": "false",
        "producer.linger_ms": "5",
        "sasl_plain_password": "other",
    }
    assert expected == given["options"]


@pytest.mark.parametrize("keep", [("--keep", "user_id, app_id"), "keep = ['user_id', 'app_id']"])
def test_fields_to_keep_are_a_list(keep: Any, config) -> None:
    assert ("user_id", "app_id") == parse(*LEAST, *(config(keep) if isinstance(keep, str) else keep))["keep"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_lagg = 7", r"stream\.toml: 'max_lagg' is no option; did you mean 'max_lag'\?"),
        ("check = true", r"stream\.toml: 'check' is no option"),
        ("slot = 1", r"stream\.toml: 'slot' is no option"),
        ("max_lag = ", r"stream\.toml: Invalid value"),
        ("max_lag = 'many'", r"'many' is not a valid integer"),
        ("guarantee = 'twice'", r"'twice' is not one of 'at-least-once', 'exactly-once'"),
        ("kafka = 'acks'", r"'acks': expected KEY=VALUE"),
    ],
)
def test_a_file_that_is_wrong_is_named(text: str, said: str, config) -> None:
    with pytest.raises(click.UsageError, match=said):
        parse(*LEAST, *config(text))


@pytest.mark.parametrize(
    ("text", "address"),
    [("9100", ("127.0.0.1", 9100)), (":9100", ("127.0.0.1", 9100)), ("0.0.0.0:0", ("0.0.0.0", 0))],
)
def test_an_address_may_be_a_port(text: str, address: tuple[str, int]) -> None:
    assert address == parse(*LEAST, "--http", text)["http"]


@pytest.mark.parametrize("text", ["host", "host:port", "host:70000"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected HOST:PORT or PORT"):
        parse(*LEAST, "--http", text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workers", "2"), "--workers does nothing with JSON lines"),
        (("--guarantee", "exactly-once"), "--guarantee does nothing with JSON lines"),
        (("--from", "latest"), "--from does nothing with JSON lines"),
        (("--to", "9"), "--to does nothing with JSON lines"),
        (("--until-end",), "--until-end does nothing with JSON lines"),
        (("--kafka", "acks=all"), "--kafka does nothing with JSON lines"),
        (("--watchdog-s", "9"), "--watchdog-s does nothing with JSON lines"),
        ("max_in_flight = 9", "--max-in-flight does nothing with JSON lines"),
        (("-b", "b:1", "--follow"), "--follow does nothing with --bootstrap-servers"),
        (("-b", "b:1", "--to", "9", "--until-end"), "--to and --until-end both say where to stop"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(arguments: Any, said: str, config) -> None:
    more = config(arguments) if isinstance(arguments, str) else arguments
    with stream.make_context("stream", [*LEAST, *more]) as context, pytest.raises(click.UsageError, match=said):
        stream.invoke(context)


def test_each_setting_of_kafka_is_of_kafka_alone() -> None:
    of_both = {"bootstrap_servers", "input_topics", "output_topic", "dead_letter_topic", "group_id", "worker_slot"}
    assert set(KafkaSettings.__dataclass_fields__) - of_both <= OF_KAFKA


def test_options_make_the_settings() -> None:
    given = parse(
        *LEAST, "-b", "one:9092,two:9092", "-g", "ctr", "--guarantee", "exactly-once",
        "--kafka", "security.protocol=SSL",
        "--instance", "pod-1", "--slot", "2", "--until-end", "--from", "latest", "--session-timeout-s", "8",
        "--event-id", "id", "--keep", "a,b", "--logit", "--errors", "all", "--http", "9100", "--max-lag", "5",
    )  # fmt: skip
    expected = KafkaSettings(
        bootstrap_servers="one:9092,two:9092",
        input_topics=("events",),
        output_topic="scores",
        dead_letter_topic="events.dead-letters",
        group_id="ctr",
        guarantee="exactly-once",
        instance="pod-1",
        worker_slot=2,
        session_timeout_s=8.0,
        start="latest",
        stop="end",
        options={"security.protocol": "SSL"},
    )
    assert expected == stream_parts.kafka(given)
    assert StreamSettings(event_id="id", keep=("a", "b"), with_logit=True) == stream_parts.settings(given)
    # Each further worker of a machine serves at the next port.
    assert Operation(http=("127.0.0.1", 9102), max_lag=5) == stream_parts.operation(given)


def test_a_transaction_is_not_kept_open_for_longer_than_the_broker_waits() -> None:
    given = parse(*LEAST, "-b", "b:1", "--guarantee", "exactly-once", "--commit-interval-s", "30")
    with pytest.raises(StreamError, match="commit_interval_s is 30, expected at most half of transaction_timeout_s"):
        stream_parts.kafka(given)


def test_json_lines_are_committed_with_each_batch() -> None:
    assert 0.0 == stream_parts.settings(parse(*LEAST)).commit_interval_s


def test_without_tolerated_errors_there_is_no_topic_of_dead_letters() -> None:
    assert "" == stream_parts.kafka(parse(*LEAST, "-b", "b:1", "--errors", "none")).dead_letter_topic


def test_every_setting_can_be_given() -> None:
    offered = {parameter.name for parameter in stream.params}
    of_others = {
        "input_topics", "output_topic", "dead_letter_topic", "group_id", "worker_slot",  # --in, --out, ..., --slot
        "dead_letter_window", "idle_s", "backoff_s", "max_backoff_s", "shadow_limit_s", "shadow_pause_s",  # Python's
    }  # fmt: skip
    for kind in (KafkaSettings, StreamSettings, Operation):
        assert set() == set(kind.__dataclass_fields__) - offered - of_others


def test_the_file_in_the_docs_is_one() -> None:
    page = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    known = {max(parameter.opts, key=len).removeprefix("--").replace("-", "_") for parameter in stream.params}
    assert set(tomllib.loads(text)) <= known


@pytest.mark.parametrize("file", ["streamfm-stream.service", "kubernetes.yaml"])
def test_the_sample_manifests_use_options_that_there_are(file: str) -> None:
    text = (ROOT / "examples" / "deploy" / file).read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    known = {option for parameter in stream.params for option in parameter.opts}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert used
    assert used <= known
    variables = set(re.findall(r"STREAMFM_[A-Z_]+", text))
    assert variables <= {parameter.envvar for parameter in stream.params}
