"""/metrics after everything that peers do: what happened is counted, nobody is named, alerts ask for what there is."""

import re
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.conftest import PROJECT
from tests.integration.operations.traffic import Seen

RULES = PROJECT / "etc" / "prometheus" / "dicomnode.rules.yaml"
WORDS = re.compile(r"\b(dicomnode_\w+)(?:\{([^}]*)\})?")


@pytest.fixture(scope="module")
def samples(seen: Seen) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(seen.metrics) for sample in family.samples]


def value(samples: list[Sample], name: str, **labels: str) -> float:
    (found,) = [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
    return float(found)


def test_what_happened_is_counted(samples: list[Sample]) -> None:
    assert value(samples, "dicomnode_refused_total", door="association") == 2
    assert value(samples, "dicomnode_refused_total", door="http") == 3
    assert value(samples, "dicomnode_sent_instances_total", outcome="sent") >= 3
    assert value(samples, "dicomnode_sent_instances_total", outcome="failed") == 1
    assert value(samples, "dicomnode_received_instances_total") == value(samples, "dicomnode_store_seconds_count") >= 8
    assert value(samples, "dicomnode_query_seconds_count", kind="region") >= 2
    assert value(samples, "dicomnode_http_seconds_count") >= 15
    assert value(samples, "dicomnode_log_records_total", level="warning") >= 8
    assert value(samples, "dicomnode_log_records_total", level="error") == 0


def test_what_waits_and_what_there_is_room_for_is_said(samples: list[Sample]) -> None:
    assert value(samples, "dicomnode_questions", state="stored") == value(
        samples, "dicomnode_questions", state="failed"
    )
    assert value(samples, "dicomnode_deliveries", state="sent") >= 1
    assert 0 <= value(samples, "dicomnode_queue_oldest_seconds", state="live") < 120
    assert value(samples, "dicomnode_question_oldest_seconds") == 0
    assert value(samples, "dicomnode_generation", state="live") == 1
    assert value(samples, "dicomnode_audit_lost_total") == 0
    assert value(samples, "dicomnode_disk_minimum_bytes") == 256 << 20
    assert 0 < value(samples, "dicomnode_disk_free_bytes") < value(samples, "dicomnode_disk_total_bytes")
    assert value(samples, "dicomnode_associations_maximum") == 64


def test_nobody_is_named(seen: Seen) -> None:
    assert not [canary for canary in seen.canaries if canary in seen.metrics]


def expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"]
            yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("alert", "expression"), list(expressions()))
def test_an_alert_asks_for_what_there_is(alert: str, expression: str, samples: list[Sample]) -> None:
    asked = WORDS.findall(expression)
    assert asked or "up{" in expression, alert
    for name, selector in asked:
        labels = dict(re.findall(r'(\w+)="([^"]*)"', selector))
        assert any(each.name == name and labels.items() <= each.labels.items() for each in samples), (name, labels)


def test_every_metric_is_explained(samples: list[Sample]) -> None:
    text = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
    names = {re.sub("_(total|bucket|count|sum|created|info)$", "", each.name) for each in samples}
    assert sorted(name for name in names if f"`{name}`" not in text) == []
