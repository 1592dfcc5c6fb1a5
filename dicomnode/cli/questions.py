"""`dicomnode questions`: the SRs that were stored to be answered, and what became of each."""

import argparse
from datetime import UTC, datetime
from typing import Any

from dicomnode.cli import options, output
from dicomnode.cli.admin import existing
from storage.records import Question
from storage.store import Store


def add(commands: options.Commands) -> None:
    """The command's flags."""
    parser = commands.add_parser("questions", help="the SRs stored as questions: state, reason, result, deliveries")
    options.archive(parser)
    options.json_flag(parser)
    parser.set_defaults(run=show_questions)


def show_questions(arguments: argparse.Namespace) -> int:
    """Every question, the latest first. No patient's name or identifier."""
    store = existing(options.load(arguments))
    try:
        rows = [_row(store, question) for question in store.questions.all()]
    finally:
        store.close()
    if arguments.json:
        output.as_json(rows)
    else:
        output.table("questions, latest first", HEADS, [_cells(row) for row in rows])
    return 0


HEADS = ("SR", "from", "asked at", "state", "hits", "reason", "result SR", "sent")


def _row(store: Store, question: Question) -> dict[str, Any]:
    sent = store.deliveries.of_question(question.id)
    return {
        "sop_instance_uid": question.sop_instance_uid,
        "from": question.source_ae,
        "asked_at": _moment(question.asked_at),
        "answered_at": None if question.answered_at is None else _moment(question.answered_at),
        "state": question.state,
        "reason": question.reason,
        "attempts": question.attempts,
        "hits": len(question.answer["hits"]) if question.answer is not None else None,
        "report_uid": question.report_uid,
        "panel_uid": question.panel_uid,
        "deliveries": [
            {
                "sop_instance_uid": each.sop_instance_uid,
                "to": each.ae_title,
                "state": each.state,
                "reason": each.reason,
                "attempts": each.attempts,
            }
            for each in sent
        ],
    }


def _cells(row: dict[str, Any]) -> list[str]:
    sent = (f"{each['to']}: {each['state']} {each['reason']}".strip() for each in row["deliveries"])
    shown = (row["sop_instance_uid"], row["from"], row["asked_at"], row["state"], row["hits"], row["reason"])
    return [*("" if cell is None else str(cell) for cell in shown), row["report_uid"] or "", "; ".join(sent)]


def _moment(at: float) -> str:
    """Local time, ISO 8601."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(timespec="seconds")
