"""`dicomnode status`, `wait`, `retry`, `reindex` and `config`: the administrator, on the machine of the archive."""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from dicomnode import config as configuration
from dicomnode import progress
from dicomnode.audit import codes
from dicomnode.cli import account, importing, options, output
from dicomnode.errors import DicomNodeError
from dicomnode.intake import MIB
from dicomnode.settings import DECLARED, Config, Source, peer_settings
from storage.store import Store

POLL_S = 0.2


def add(commands: options.Commands) -> None:
    """The commands' flags."""
    status = commands.add_parser("status", help="what the archive holds and what is still to be done")
    status.add_argument("--conflicts", action="store_true", help="list what contradicts its patient or study")
    status.set_defaults(run=show_status)
    wait = commands.add_parser("wait", help="return when the queue is empty")
    wait.add_argument("--timeout", type=float, metavar="S", help="give up after this many seconds, exit code 1")
    wait.set_defaults(run=wait_for_queue)
    retry = commands.add_parser("retry", help="queue again what failed")
    retry.add_argument("--not-indexable", action="store_true", help="also what was not indexable")
    retry.set_defaults(run=retry_failed)
    reindex = commands.add_parser("reindex", help="encode the whole archive again, and swap when it is done")
    reindex.add_argument("--model", type=Path, metavar="DIR", help="model set to encode with (default: the live one)")
    reindex.add_argument(
        "--only",
        choices=("index", "features", "thresholds"),
        help="index: rebuild the index files from the database; features: make the local features that are missing; "
        "thresholds: measure again what is unlike the archive",
    )
    reindex.add_argument("--abandon", action="store_true", help="give up the generation that is being built")
    reindex.add_argument("--rollback", action="store_true", help="make the generation before the live one live again")
    reindex.add_argument("--workers", type=int, help="worker processes beside those of a running node")
    reindex.add_argument("--ray", metavar="ADDRESS", default="", help=importing.RAY)
    reindex.add_argument("--throttle", metavar="RATE", help=DECLARED["reindex.throttle"].about)
    reindex.add_argument("--schedule", metavar="HOURS", help=DECLARED["reindex.schedule"].about)
    reindex.add_argument("--force", action="store_true", help="swap although the verification refuses")
    reindex.add_argument("--dry-run", action="store_true", help="say what would be done")
    reindex.set_defaults(run=reindex_archive)
    shown = commands.add_parser("config", help="the effective settings and where each came from")
    shown.add_argument("--example", action="store_true", help="print a commented configuration file")
    shown.set_defaults(run=show_config)
    for parser in (status, wait, retry, reindex, shown):
        options.archive(parser)
        options.json_flag(parser)


def existing(settings: Config) -> Store:
    """The store, which must be there: a mistyped root is an error, not a new archive."""
    from dicomnode.node import open_store

    if not settings.storage.url and not Store.is_at(settings.root):
        raise DicomNodeError(f"no archive at {settings.root}")
    return open_store(settings)


def counts(store: Store) -> dict[str, Any]:
    """The numbers of `status`, of the live generation."""
    live = store.generations.live()
    if live is None:
        raise DicomNodeError("the archive has no live generation: start `dicomnode serve` on it once")
    numbers = dataclasses.asdict(store.jobs.counts(live.id))
    numbers |= {"regions": store.regions.count(live.id), "generation": live.id, "model": live.model.id}
    return numbers


def show_status(arguments: argparse.Namespace) -> int:
    """Counts, generations, and the latest failures with their reasons."""
    settings = options.load(arguments)
    store = existing(settings)
    if arguments.conflicts:
        return _show_conflicts(arguments, store)
    numbers = counts(store) | studies(store, settings) | room(store, settings)
    active = store.generations.active()
    building = [progress.of(store, generation) for generation in active if generation.id != numbers["generation"]]
    failures = store.jobs.failures(20)
    if arguments.json:
        output.as_json(
            numbers
            | {
                "building": [each.values() for each in building],
                "failures": [dataclasses.asdict(row) for row in failures],
            }
        )
    else:
        output.table("archive", ("what", "number"), list(numbers.items()))
        for each in building:
            far = f"{each.done} of {each.instances}" + (f", {each.text}" if each.text else "")
            output.say(f"generation {each.generation} is being built with model {each.model}: {far}")
        if failures:
            rows = [(row.sop_instance_uid, row.state, row.attempts, row.reason) for row in failures]
            output.table("without vectors (latest)", ("SOP Instance UID", "state", "attempts", "reason"), rows)
    store.close()
    return 0


def studies(store: Store, settings: Config) -> dict[str, int]:
    """The numbers of `status` that are of studies, in any generation."""
    of = store.studies.counts(settings.storage.stable_age_s)
    return {
        "bytes": store.studies.size(),
        "studies_complete": of.complete,
        "studies_arriving": of.arriving,
        "studies_expired": store.studies.expired(),
        "conflicts": store.conflicts.count(),
    }


def room(store: Store, settings: Config) -> dict[str, int | bool]:
    """What is left of the disk, and whether that is enough for the node to take anything."""
    free = store.files.free_bytes() // MIB
    return {"free_mib": free, "accepting": free >= settings.storage.minimum_free_mib}


def _show_conflicts(arguments: argparse.Namespace, store: Store) -> int:
    """What an administrator needs to mend them, Patient IDs among it."""
    found = [dataclasses.asdict(conflict) for conflict in store.conflicts.all()]
    store.close()
    if arguments.json:
        output.as_json(found)
    else:
        shown = ("study_instance_uid", "kind", "outcome", "times", "patient_id", "source_ae", "sop_instance_uid")
        rows = [[row[name] for name in shown] for row in found]
        heads = ("study kept", "kind", "outcome", "times", "Patient ID stated", "from", "latest instance")
        output.table("conflicts, latest first", heads, rows)
    return 0


def wait_for_queue(arguments: argparse.Namespace) -> int:
    """0 when nothing is queued, 1 when the time-out came first."""
    store = existing(options.load(arguments))
    with output.progress(quiet=arguments.json) as report:
        done = wait(store, report, arguments.timeout)
    numbers = counts(store)
    store.close()
    if arguments.json:
        output.as_json(numbers)
    elif done:
        output.say(
            f"{numbers['indexed']} indexed, {numbers['not_indexable']} not indexable, {numbers['failed']} failed"
        )
    if not done:
        output.complain(f"{numbers['queued']} still queued")
    return 0 if done else 1


def wait(store: Store, report: output.Reporter, timeout_s: float | None = None) -> bool:
    """Wait until nothing is queued in the live generation. False when the time-out came first."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        numbers = counts(store)
        ended = numbers["instances"] - numbers["queued"]
        report("indexing", ended, numbers["instances"], f"{numbers['failed']} failed" if numbers["failed"] else "")
        if not numbers["queued"]:
            return True
        if deadline is not None and time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)


def wait_with(root: Path, report: output.Reporter) -> None:
    """Wait for the archive under a root."""
    store = Store.open(root)
    try:
        wait(store, report)
    finally:
        store.close()


def retry_failed(arguments: argparse.Namespace) -> int:
    """Queue failed instances of the live generation again."""
    store = existing(options.load(arguments))
    live = counts(store)["generation"]
    queued = store.jobs.retry(live, also_not_indexable=arguments.not_indexable)
    store.close()
    if arguments.json:
        output.as_json({"queued": queued})
    else:
        output.say(f"{queued} queued again")
    return 0


def reindex_archive(arguments: argparse.Namespace) -> int:
    """Build a generation beside the live one and swap; or do only a part of it."""
    flags = {"reindex.throttle": arguments.throttle, "reindex.schedule": arguments.schedule}
    settings = options.load(arguments, **{"ingest.workers": arguments.workers, **flags})
    store = existing(settings)
    try:
        before = store.generations.live()
        result = _part(arguments, store, settings) if arguments.only else _whole(arguments, store, settings)
        live = store.generations.live()
    finally:
        store.close()
    if live is not None and before is not None and live.id != before.id:
        with account.audited(settings) as who:
            who.configured(codes.SOFTWARE_CONFIGURATION, f"generation {live.id} of model {live.model.id} is live")
    if arguments.json:
        output.as_json(result)
    else:
        output.say(", ".join(f"{name} {value}" for name, value in result.items()))
    return 0


def _whole(arguments: argparse.Namespace, store: Store, settings: Config) -> dict[str, Any]:
    from dicomnode import reindex

    if arguments.abandon:
        return reindex.abandon(store)
    if arguments.rollback:
        return reindex.roll_back(store)
    if arguments.dry_run:
        return reindex.plan(store, settings, arguments.model)
    with output.progress(quiet=arguments.json) as report:
        return reindex.run(store, settings, arguments.model, report, force=arguments.force, ray=arguments.ray)


def _part(arguments: argparse.Namespace, store: Store, settings: Config) -> dict[str, Any]:
    from dicomnode import reindex

    if arguments.dry_run:
        would = {
            "index": reindex.indexed_vectors,
            "features": reindex.missing_features,
            "thresholds": reindex.measured_thresholds,
        }
        return would[arguments.only](store)
    with output.progress(quiet=arguments.json) as report:
        if arguments.only == "features":
            return reindex.add_features(store, settings, report)
    return reindex.rebuild_index(store, settings) if arguments.only == "index" else reindex.measure_thresholds(store)


def show_config(arguments: argparse.Namespace) -> int:
    """Every setting, its value and its source; secrets masked."""
    if arguments.example:
        print(configuration.example(), end="")
        return 0
    settings = options.load(arguments)
    rows = []
    for name, setting in DECLARED.items():
        value = getattr(getattr(settings, setting.section), setting.key)
        rows.append((name, "***" if setting.secret and value else value, settings.sources[name], setting.variable))
    for peer in settings.peers:
        for name, setting in peer_settings(peer.name).items():
            value = getattr(peer, name)
            source: Source = "default" if value == setting.default else "file"
            rows.append((setting.name, "***" if setting.secret and value else value, source, ""))
    if arguments.json:
        output.as_json({name: {"value": value, "source": source} for name, value, source, _ in rows})
    else:
        output.table(
            "effective settings",
            ("setting", "value", "from", "environment variable"),
            [(name, configuration.shown(value), source, variable) for name, value, source, variable in rows],
        )
    return 0
