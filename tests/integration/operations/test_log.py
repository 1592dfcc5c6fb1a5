"""`log.format = "json"`: one object a line whatever happens, and no patient, no token in any of it."""

import json

from tests.integration.operations.traffic import Seen

# A line of each part that the traffic goes through: else a silent log would prove nothing.
SAID = (
    "association from STRANGER",
    "C-STORE from DICOMNODE_SCU refused",
    "C-FIND from DICOMNODE_SCU refused",
    "C-MOVE from DICOMNODE_SCU refused",
    "C-MOVE of DICOMNODE_SCU to peers.GONE",
    "STOW-RS from READER refused",
    "HTTP request from 127.0.0.1 refused: unknown token",
    "duplicate SOP Instance UID",
    "instance names another patient",
    "answered: ",
    "SR has no region",
)


def test_every_line_is_an_object_with_time_level_logger_and_message(seen: Seen) -> None:
    lines = [json.loads(line) for line in seen.node.log_text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert {"info", "warning"} <= {line["level"] for line in lines}
    messages = [line["message"] for line in lines]
    assert not [words for words in SAID if not any(words in message for message in messages)]


def test_nobody_is_named_and_no_secret_told(seen: Seen) -> None:
    for line in seen.node.log_text.splitlines():
        decoded = json.loads(line)["message"]
        assert not [canary for canary in seen.canaries if canary in decoded or canary in line]


def test_nothing_was_unforeseen(seen: Seen) -> None:
    levels = [(line["level"], line["message"]) for line in map(json.loads, seen.node.log_text.splitlines())]
    assert [message for level, message in levels if level in {"error", "critical"}] == []
