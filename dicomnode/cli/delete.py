"""`dicomnode delete`: a patient, study, series or instance out of the archive, or what retention would take."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dicomnode.cli import account, admin, options, output
from dicomnode.errors import ConfigError, DicomNodeError
from dicomnode.settings import Config
from storage.records import Condition, Equals, StudyShare
from storage.store import Store

COLUMNS = {"study": "study_instance_uid", "series": "series_instance_uid", "instance": "sop_instance_uid"}
MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What would go, and how to make it go."""

    studies: Sequence[StudyShare]
    run: Callable[[], Iterator[StudyShare]]


def add(commands: options.Commands) -> None:
    """The command's flags."""
    parser = commands.add_parser("delete", help="delete a patient, study, series or instance, with all made of it")
    what = parser.add_mutually_exclusive_group(required=True)
    for name, column in COLUMNS.items():
        what.add_argument(f"--{name}", type=_value, metavar="UID", help=f"the {name} of this {_keyword(column)}")
    what.add_argument("--patient", type=_value, metavar="ID", help="everything of this Patient ID")
    what.add_argument("--by-retention", action="store_true", help="what the settings of [retention] would take now")
    parser.add_argument("--issuer", metavar="NAME", help="with --patient: Issuer of Patient ID; '' for none")
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    parser.add_argument("--yes", action="store_true", help="do not ask on a terminal")
    options.archive(parser)
    options.json_flag(parser)
    parser.set_defaults(run=delete)


def _keyword(column: str) -> str:
    return column.replace("_", " ").title().replace("Sop", "SOP").replace("Uid", "UID")


def _value(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def delete(arguments: argparse.Namespace) -> int:
    """0 when it is gone, or would be; 1 when nothing matches or the answer was no."""
    if arguments.issuer is not None and arguments.patient is None:
        raise ConfigError("--issuer needs --patient")
    settings = options.load(arguments)
    with admin.existing(settings) as store:
        plan = (
            _by_retention(store, settings)
            if arguments.by_retention
            else _matching(store, _conditions(arguments, store))
        )
        if arguments.dry_run:
            return _told(arguments, plan.studies, "would be deleted")
        if not _confirmed(arguments, plan.studies):
            output.complain("nothing was deleted")
            return 1
        gone, whole = [], arguments.series is None and arguments.instance is None
        with account.audited(settings) as who, output.progress(quiet=arguments.json) as report:
            for study in plan.run():
                gone.append(study)
                who.deleted(study, whole=whole)
                report("deleting", len(gone), max(len(gone), len(plan.studies)), "")
        return _told(arguments, gone, "deleted")


def _by_retention(store: Store, settings: Config) -> Plan:
    from dicomnode import upkeep

    retention, age_s = settings.retention, settings.storage.stable_age_s
    if not (retention.maximum_gib or retention.maximum_age_days):
        raise DicomNodeError("retention.maximum_gib and retention.maximum_age_days are 0: nothing is ever due")
    studies = [each.study for each in upkeep.due(store, retention, age_s)]
    return Plan(studies, lambda: (each.study for each in upkeep.expire(store, retention, age_s)))


def _matching(store: Store, conditions: Sequence[Condition]) -> Plan:
    studies = store.deletion.plan(conditions)
    if not studies:
        raise DicomNodeError("nothing in the archive matches")
    return Plan(studies, lambda: store.deletion.delete(conditions))


def _conditions(arguments: argparse.Namespace, store: Store) -> list[Condition]:
    for name, column in COLUMNS.items():
        if (value := getattr(arguments, name)) is not None:
            return [Equals(column, value)]
    patient: list[Condition] = [Equals("patient_id", arguments.patient)]
    if arguments.issuer is not None:
        return [*patient, Equals("issuer", arguments.issuer)]
    if len(list(store.catalog.find("PATIENT", patient, limit=2, wanted=()))) > 1:
        raise DicomNodeError("patients of several issuers have this Patient ID: name one with --issuer")
    return patient


def _confirmed(arguments: argparse.Namespace, studies: Sequence[StudyShare]) -> bool:
    """Asked only where somebody sits."""
    if arguments.yes or arguments.json or not studies or not sys.stdin.isatty():
        return True
    output.say(f"{_summary(studies)} will be deleted")
    return input("Delete? [y/N] ").strip().lower() in {"y", "yes"}


def _told(arguments: argparse.Namespace, studies: Sequence[StudyShare], what: str) -> int:
    if arguments.json:
        output.as_json(_document(arguments, studies))
        return 0
    if arguments.dry_run and studies:
        rows = [(study.study_instance_uid, study.instances, study.size) for study in studies]
        output.table(what, ("Study Instance UID", "instances", "bytes"), rows)
    output.say(f"{_summary(studies)} {what}")
    return 0


def _document(arguments: argparse.Namespace, studies: Sequence[StudyShare]) -> dict[str, Any]:
    each = [
        {"study_instance_uid": study.study_instance_uid, "instances": study.instances, "bytes": study.size}
        for study in studies
    ]
    totals = {"studies": len(studies), "instances": _instances(studies), "bytes": _size(studies)}
    return {"dry_run": arguments.dry_run, **totals, "each": each}


def _summary(studies: Sequence[StudyShare]) -> str:
    what = f"{len(studies)} {'study' if len(studies) == 1 else 'studies'}"
    return f"{_instances(studies)} instances of {what}, {_size(studies) / MIB:.1f} MiB,"


def _instances(studies: Sequence[StudyShare]) -> int:
    return sum(study.instances for study in studies)


def _size(studies: Sequence[StudyShare]) -> int:
    return sum(study.size for study in studies)
