"""The rival, in an environment of its own: Quix Streams scoring record by record with the same ONNX network.

Written as its documentation shows: JSON is deserialised by the topic, `apply` is called with each value, `to_topic`
writes what it returns. At-least-once and a commit every 5 s are its defaults, and left. Ids come out of a dict a
feature, which is the quickest way to encode one record in Python. Nothing of streamfm is imported here.

Given as JSON: bootstrap, source, target, group, network (a file), rows (a JSON file: by feature the row of each value,
in the network's order), unknown (the row of any other value, by feature), events. Prints as JSON per_second, seconds
and the first event's answer. The time ends when the last event was scored: what is still to be flushed and committed
then is not counted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from quixstreams import Application

WARM_UP_SHARE = 0.1


def main() -> None:
    given = json.loads(sys.argv[1])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(given["network"], options)
    rows = [
        (name, found, given["unknown"][name]) for name, found in json.loads(Path(given["rows"]).read_text()).items()
    ]
    marks: list[float] = []
    answers: list[dict[str, Any]] = []
    begin, end = int(WARM_UP_SHARE * given["events"]), given["events"]
    done = 0

    def score(event: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        ids = np.array([[found.get(event[name], unknown) for name, found, unknown in rows]], np.int32)
        answer = {"event_id": event["event_id"], "score": float(session.run(["score"], {"ids": ids})[0][0])}
        done += 1
        if done == 1:
            answers.append(event | {"score": answer["score"]})
        if done in (begin, end):
            marks.append(time.perf_counter())
        if done == end:
            application.stop()
        return answer

    application = Application(
        broker_address=given["bootstrap"],
        consumer_group=given["group"],
        auto_offset_reset="earliest",
        auto_create_topics=False,
        loglevel="WARNING",
    )
    stream = application.dataframe(application.topic(given["source"], value_deserializer="json"))
    stream = stream.apply(score)
    stream.to_topic(application.topic(given["target"], value_serializer="json"))
    application.run()
    seconds = marks[1] - marks[0]
    print(json.dumps({"per_second": (end - begin) / seconds, "seconds": seconds, "first": answers[0]}))


if __name__ == "__main__":
    main()
