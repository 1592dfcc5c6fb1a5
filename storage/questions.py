"""Stored SRs that ask in; those that are due, their kept answers, and what is owed to peers for them, out.

A question waits until its answer is kept (`answered`), then until its result objects are stored (`stored`), or fails
with a reason. Each step is one transaction: a crash repeats the step it fell into and no other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, bindparam, delete, func, insert, select, update

from storage.database import Database
from storage.records import Delivery, DeliveryState, Question
from storage.schema import DELIVERY, QUESTION

_QUESTION_COLUMNS = [column for column in QUESTION.c if column is not QUESTION.c.not_before]
_DELIVERY_COLUMNS = [column for column in DELIVERY.c if column is not DELIVERY.c.not_before]
_DUE = (
    select(*_QUESTION_COLUMNS)
    .where(QUESTION.c.not_before <= bindparam("now"))
    .order_by(QUESTION.c.not_before, QUESTION.c.id)
    .limit(1)
)
_OWED = (
    select(*_DELIVERY_COLUMNS)
    .where(DELIVERY.c.not_before <= bindparam("now"))
    .order_by(DELIVERY.c.not_before, DELIVERY.c.id)
    .limit(1)
)


class Questions:
    """What was asked by storing an SR. Safe for threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def ask(self, sop_instance_uid: str, source_ae: str) -> bool:
        """Keep a question, due at once; durable on return. False when there is nothing new to be asked.

        An SR asks once; asked again after it has failed it waits anew. A result of the node's own never asks.
        """
        now = self._clock()

        def work(connection: Connection) -> bool:
            known = connection.execute(
                select(QUESTION.c.state, QUESTION.c.report_uid == sop_instance_uid).where(
                    (QUESTION.c.sop_instance_uid == sop_instance_uid) | (QUESTION.c.report_uid == sop_instance_uid)
                )
            ).all()
            if any(state != "failed" or is_report for state, is_report in known):
                return False
            fresh = {"source_ae": source_ae, "state": "waiting", "reason": "", "attempts": 0}
            fresh |= {"asked_at": now, "not_before": now}
            if known:
                again = update(QUESTION).where(QUESTION.c.sop_instance_uid == sop_instance_uid)
                connection.execute(again.values(fresh))
            else:
                connection.execute(insert(QUESTION), {"sop_instance_uid": sop_instance_uid, **fresh})
            return True

        return self._database.write(work)

    def due(self) -> Question | None:
        """The question that has waited longest, if one is due."""
        return self._one(_DUE, {"now": self._clock()})

    def of_sr(self, sop_instance_uid: str) -> Question | None:
        """The question that an SR asks."""
        return self._one(select(*_QUESTION_COLUMNS).where(QUESTION.c.sop_instance_uid == sop_instance_uid))

    def of_report(self, sop_instance_uid: str) -> Question | None:
        """The question that a result SR answers."""
        return self._one(select(*_QUESTION_COLUMNS).where(QUESTION.c.report_uid == sop_instance_uid))

    def all(self) -> list[Question]:
        """Every question, the latest first."""
        query = select(*_QUESTION_COLUMNS).order_by(QUESTION.c.asked_at.desc(), QUESTION.c.id.desc())
        with self._database.reading() as connection:
            return [Question(**row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[str, int]:
        """How many there are of each state."""
        states = select(QUESTION.c.state, func.count()).group_by(QUESTION.c.state)
        with self._database.reading() as connection:
            return {str(state): int(count) for state, count in connection.execute(states)}

    def oldest(self) -> float | None:
        """When the first was asked that is not done with, seconds since 1970; None: all are."""
        waiting = select(func.min(QUESTION.c.asked_at)).where(QUESTION.c.not_before.is_not(None))
        with self._database.reading() as connection:
            at = connection.execute(waiting).scalar()
        return None if at is None else float(at)

    def hasten(self) -> None:
        """Make every question due that is not done with: after a start."""
        waiting = update(QUESTION).where(QUESTION.c.not_before.is_not(None)).values(not_before=self._clock())
        self._database.write(lambda connection: connection.execute(waiting))

    def postpone(self, question_id: int, delay_s: float, reason: str) -> None:
        """Count an attempt that came to nothing; the question is due again after `delay_s`."""
        later = {"not_before": self._clock() + delay_s, "attempts": QUESTION.c.attempts + 1, "reason": reason}
        self._change(question_id, later)

    def answer(self, question_id: int, answer: Mapping[str, Any], report_uid: str, panel_uid: str) -> None:
        """Keep the answer and what its result objects are going to be called; due at once for them to be made."""
        now = self._clock()
        kept = {"state": "answered", "reason": "", "attempts": 0, "answer": dict(answer), "answered_at": now}
        self._change(question_id, kept | {"report_uid": report_uid, "panel_uid": panel_uid, "not_before": now})

    def finish(self, question_id: int, reason: str = "") -> None:
        """Its result objects are stored; `reason`: what is missing of them."""
        self._change(question_id, {"state": "stored", "reason": reason, "not_before": None})

    def fail(self, question_id: int, reason: str) -> None:
        """There is no answer, and why. `reason` holds no patient data."""
        self._change(question_id, {"state": "failed", "reason": reason, "not_before": None})

    def _change(self, question_id: int, values: Mapping[str, Any]) -> None:
        change = update(QUESTION).where(QUESTION.c.id == question_id).values(dict(values))
        self._database.write(lambda connection: connection.execute(change))

    def _one(self, query: Select[Any], values: Mapping[str, Any] | None = None) -> Question | None:
        with self._database.reading() as connection:
            row: RowMapping | None = connection.execute(query, values or {}).mappings().one_or_none()
        return None if row is None else Question(**row)


class Deliveries:
    """Result objects that peers are owed. Safe for threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def owe(self, question_id: int, sop_instance_uid: str, ae_title: str) -> None:
        """Keep that a peer is to be sent an object, due at once; durable on return. Owed once, it is not owed again."""
        now = self._clock()
        row = {"question_id": question_id, "sop_instance_uid": sop_instance_uid, "ae_title": ae_title}
        fresh = {"state": "owed", "reason": "", "attempts": 0, "owed_at": now, "not_before": now}
        known = select(DELIVERY.c.id).where(*(DELIVERY.c[name] == value for name, value in row.items()))
        asked = select(QUESTION.c.id).where(QUESTION.c.id == question_id)

        def work(connection: Connection) -> None:
            if connection.execute(asked).first() and not connection.execute(known).first():
                connection.execute(insert(DELIVERY), row | fresh)

        self._database.write(work)

    def due(self) -> Delivery | None:
        """The delivery that has waited longest, if one is due."""
        with self._database.reading() as connection:
            row = connection.execute(_OWED, {"now": self._clock()}).mappings().one_or_none()
        return None if row is None else Delivery(**row)

    def of_question(self, question_id: int) -> list[Delivery]:
        """What was, or is to be, sent for a question, in the order it was owed."""
        query = select(*_DELIVERY_COLUMNS).where(DELIVERY.c.question_id == question_id).order_by(DELIVERY.c.id)
        with self._database.reading() as connection:
            return [Delivery(**row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[str, int]:
        """How many there are of each state."""
        states = select(DELIVERY.c.state, func.count()).group_by(DELIVERY.c.state)
        with self._database.reading() as connection:
            return {str(state): int(count) for state, count in connection.execute(states)}

    def hasten(self) -> None:
        """Make every delivery due that has not ended: peers may be back."""
        owed = update(DELIVERY).where(DELIVERY.c.not_before.is_not(None)).values(not_before=self._clock())
        self._database.write(lambda connection: connection.execute(owed))

    def postpone(self, delivery_id: int, delay_s: float, reason: str) -> None:
        """Count an attempt that failed; due again after `delay_s`."""
        later = {"not_before": self._clock() + delay_s, "attempts": DELIVERY.c.attempts + 1, "reason": reason}
        self._change(delivery_id, later)

    def end(self, delivery_id: int, state: DeliveryState, reason: str = "") -> None:
        """It was sent, refused, or is given up: never tried again."""
        self._change(delivery_id, {"state": state, "reason": reason, "not_before": None})

    def _change(self, delivery_id: int, values: Mapping[str, Any]) -> None:
        change = update(DELIVERY).where(DELIVERY.c.id == delivery_id).values(dict(values))
        self._database.write(lambda connection: connection.execute(change))


def forget(connection: Connection, sop_instance_uids: Sequence[str]) -> None:
    """Remove the questions of SRs that are deleted, with what is owed for them, in the deletion's transaction."""
    asked = select(QUESTION.c.id).where(QUESTION.c.sop_instance_uid.in_(sop_instance_uids))
    connection.execute(delete(DELIVERY).where(DELIVERY.c.question_id.in_(asked)))
    connection.execute(delete(QUESTION).where(QUESTION.c.sop_instance_uid.in_(sop_instance_uids)))
