"""Stored SRs that ask in; those that are due, their kept answers, and what is owed to peers for them, out.

A question waits until its answer is kept (`answered`), then until its result objects are stored (`stored`), or fails
with a reason, of which the asker is told when it has a `report_uid`. Each step is one transaction: a crash repeats the
step it fell into and no other. What is due is leased: several nodes on one database do each step once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from storage.database import Database
from storage.leases import Leases
from storage.records import Delivery, DeliveryState, Question, QuestionState
from storage.schema import DELIVERY, QUESTION


class Questions:
    """What was asked by storing an SR. Safe for threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._leases = Leases(database, clock, QUESTION)

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
            fresh |= {"asked_at": now, "not_before": now, "lease_owner": None}
            fresh |= {"answer": None, "answered_at": None, "report_uid": None, "panel_uid": None}
            if known:
                again = update(QUESTION).where(QUESTION.c.sop_instance_uid == sop_instance_uid)
                connection.execute(again.values(fresh))
            else:
                connection.execute(insert(QUESTION), {"sop_instance_uid": sop_instance_uid, **fresh})
            return True

        return self._database.write(work)

    def claim(self, owner: str, lease_s: float) -> Question | None:
        """The question that has waited longest, if one is due, leased to `owner`; see `Leases`."""
        row = self._leases.claim(owner, lease_s)
        return None if row is None else Question(**row)

    def of_sr(self, sop_instance_uid: str) -> Question | None:
        """The question that an SR asks."""
        return self._one(QUESTION.c.sop_instance_uid == sop_instance_uid)

    def of_report(self, sop_instance_uid: str) -> Question | None:
        """The question that a result SR answers."""
        return self._one(QUESTION.c.report_uid == sop_instance_uid)

    def all(self, limit: int | None = None) -> list[Question]:
        """Every question, or so many, the latest first."""
        query = select(*self._leases.columns).order_by(QUESTION.c.asked_at.desc(), QUESTION.c.id.desc()).limit(limit)
        with self._database.reading() as connection:
            return [Question(**row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[QuestionState, int]:
        """How many questions there are in each state that there is one in."""
        query = select(QUESTION.c.state, func.count()).group_by(QUESTION.c.state)
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def oldest(self) -> float | None:
        """When the first was asked that is not done with, seconds since 1970; None: all are."""
        waiting = select(func.min(QUESTION.c.asked_at)).where(QUESTION.c.not_before.is_not(None))
        with self._database.reading() as connection:
            at = connection.execute(waiting).scalar()
        return None if at is None else float(at)

    def hasten(self, holder: str) -> None:
        """Make every question due that is not done with: after a start; see `Leases`."""
        self._leases.hasten(holder)

    def release(self, owner: str) -> None:
        """Let go of what an owner has in hand."""
        self._leases.release(owner)

    def postpone(self, question: Question, delay_s: float, reason: str) -> None:
        """Count an attempt that came to nothing; the question is due again after `delay_s`. LeaseLost."""
        later = {"not_before": self._clock() + delay_s, "attempts": QUESTION.c.attempts + 1, "reason": reason}
        self._change(question, later)

    def answer(self, question: Question, answer: Mapping[str, Any], report_uid: str, panel_uid: str) -> None:
        """Keep the answer and what its result objects are going to be called; due at once for them to be made.

        LeaseLost.
        """
        now = self._clock()
        kept = {"state": "answered", "reason": "", "attempts": 0, "answer": dict(answer), "answered_at": now}
        self._change(question, kept | {"report_uid": report_uid, "panel_uid": panel_uid, "not_before": now})

    def finish(self, question: Question, reason: str = "") -> None:
        """Its result objects are stored; `reason`: what is missing of them. LeaseLost."""
        self._change(question, {"state": "stored", "reason": reason, "not_before": None})

    def fail(self, question: Question, reason: str, notice_uid: str | None = None) -> None:
        """There is no answer, and why. `reason` holds no patient data. LeaseLost.

        `notice_uid`: of the object that is to tell the asker; the question is then due at once for that to be made.
        """
        failed: dict[str, Any] = {"state": "failed", "reason": reason, "not_before": None}
        if notice_uid is not None:
            failed |= {"report_uid": notice_uid, "attempts": 0, "not_before": self._clock()}
        self._change(question, failed)

    def end(self, question: Question) -> None:
        """Nothing more is to be done for it. LeaseLost."""
        self._change(question, {"not_before": None})

    def _change(self, question: Question, values: Mapping[str, Any]) -> None:
        self._leases.change(question.id, question.owner, values)

    def _one(self, condition: ColumnElement[bool]) -> Question | None:
        with self._database.reading() as connection:
            row = connection.execute(select(*self._leases.columns).where(condition)).mappings().one_or_none()
        return None if row is None else Question(**row)


class Deliveries:
    """Result objects that peers are owed. Safe for threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._leases = Leases(database, clock, DELIVERY)

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

    def claim(self, owner: str, lease_s: float) -> Delivery | None:
        """The delivery that has waited longest, if one is due, leased to `owner`; see `Leases`."""
        row = self._leases.claim(owner, lease_s)
        return None if row is None else Delivery(**row)

    def of_question(self, question_id: int) -> list[Delivery]:
        """What was, or is to be, sent for a question, in the order it was owed."""
        query = select(*self._leases.columns).where(DELIVERY.c.question_id == question_id).order_by(DELIVERY.c.id)
        with self._database.reading() as connection:
            return [Delivery(**row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[DeliveryState, int]:
        """How many there are of each state."""
        states = select(DELIVERY.c.state, func.count()).group_by(DELIVERY.c.state)
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(states)}

    def hasten(self, holder: str) -> None:
        """Make every delivery due that has not ended: peers may be back; see `Leases`."""
        self._leases.hasten(holder)

    def release(self, owner: str) -> None:
        """Let go of what an owner has in hand."""
        self._leases.release(owner)

    def postpone(self, delivery: Delivery, delay_s: float, reason: str) -> None:
        """Count an attempt that failed; due again after `delay_s`. LeaseLost."""
        later = {"not_before": self._clock() + delay_s, "attempts": DELIVERY.c.attempts + 1, "reason": reason}
        self._leases.change(delivery.id, delivery.owner, later)

    def end(self, delivery: Delivery, state: DeliveryState, reason: str = "") -> None:
        """It was sent, refused, or is given up: never tried again. LeaseLost."""
        self._leases.change(delivery.id, delivery.owner, {"state": state, "reason": reason, "not_before": None})


def forget(connection: Connection, sop_instance_uids: Sequence[str]) -> None:
    """Remove the questions of SRs that are deleted, with what is owed for them, in the deletion's transaction."""
    asked = select(QUESTION.c.id).where(QUESTION.c.sop_instance_uid.in_(sop_instance_uids))
    connection.execute(delete(DELIVERY).where(DELIVERY.c.question_id.in_(asked)))
    connection.execute(delete(QUESTION).where(QUESTION.c.sop_instance_uid.in_(sop_instance_uids)))
