"""`dicomnode verify`: whether all that is kept is there, whole, and says the same. 0 sound, 1 damaged, 3 untidy."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from dicomnode.cli import options, output
from dicomnode.cli.admin import existing
from dicomnode.verification import ADVICE, Finding, repair, verify
from storage.store import Store

SOUND, DAMAGED, UNTIDY = 0, 1, 3


def add(commands: options.Commands) -> None:
    """The command's flags."""
    parser = commands.add_parser(
        "verify",
        help="compare files, rows and index with each other",
        epilog="Exit code: 0 sound, 1 something is damaged or lost, 3 only what --repair mends was found.",
    )
    parser.add_argument("--quick", action="store_true", help="sizes of files instead of their digests")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="move files that nothing names to quarantine/, queue missing work, remove damaged snapshots of the index",
    )
    options.archive(parser)
    options.json_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """What was found, and what was done."""
    with existing(options.load(arguments)) as store:
        with output.progress(quiet=arguments.json) as report:
            found = verify(store, report, time.time(), contents=not arguments.quick)
        if arguments.repair:
            found = repair(store, found)
        _tell(arguments, store, found)
    return _code(found)


def _code(found: Sequence[Finding]) -> int:
    left = [finding for finding in found if not finding.done]
    if any(finding.is_grave for finding in left):
        return DAMAGED
    return UNTIDY if left else SOUND


def _tell(arguments: argparse.Namespace, store: Store, found: Sequence[Finding]) -> None:
    instances, size = store.catalog.count(), store.studies.size()
    if arguments.json:
        rows = [_row(finding) for finding in found]
        output.as_json(
            {"instances": instances, "bytes": size, "contents": not arguments.quick, "sound": not rows, "found": rows}
        )
        return
    if found:
        cells = [
            (each.disagreement.kind, each.disagreement.subject, each.disagreement.detail, each.done) for each in found
        ]
        output.table("found", ("what", "of", "detail", "done"), cells)
    for kind in dict.fromkeys(each.disagreement.kind for each in found if not each.done):
        if kind in ADVICE:
            output.say(f"{kind}: {ADVICE[kind]}")
    what = "sizes" if arguments.quick else "digests"
    output.say(f"{instances} instances, {size} bytes, by their {what}: {len(found)} contradictions")


def _row(finding: Finding) -> dict[str, Any]:
    found = finding.disagreement
    return {
        "kind": found.kind,
        "subject": found.subject,
        "detail": found.detail,
        "grave": finding.is_grave,
        "done": finding.done,
    }
