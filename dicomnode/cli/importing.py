"""`dicomnode import`: DICOM files of this machine into the archive, without the network."""

import argparse
from pathlib import Path

from dicomnode import importing, sources
from dicomnode.cli import options, output
from dicomnode.errors import DicomNodeError
from dicomnode.importing import Summary
from dicomnode.locks import LOOK_S, Lock
from dicomnode.node import open_store
from dicomnode.settings import Config
from dicomnode.sources import Source
from dicomnode.upkeep import IMPORTING

RAY = "address of a Ray cluster whose workers do it, or `local` for one on this machine; needs the extra `ray`"


def add(commands: options.Commands) -> None:
    """The command's flags."""
    parser = commands.add_parser("import", help="take DICOM files in without the network; a node may run meanwhile")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="file, folder, zip or tar of DICOM files")
    parser.add_argument("--ray", metavar="ADDRESS", help=RAY)
    parser.add_argument("--workers", type=int, help="worker processes, with --ray")
    options.archive(parser)
    options.json_flag(parser)
    parser.set_defaults(run=import_files)


def import_files(arguments: argparse.Namespace) -> int:
    """0 when every DICOM file is in the archive; each that is not is named with its reason."""
    settings = options.load(arguments, **{"ingest.workers": arguments.workers})
    found = sources.sources(arguments.paths)
    if not found:
        raise DicomNodeError("no files there")
    with Lock(settings.root / IMPORTING, "an import", wait_s=LOOK_S), output.progress(quiet=arguments.json) as report:
        summary = _imported(settings, found, arguments.ray, report)
    if arguments.json:
        output.as_json(summary.values())
    else:
        counts = {name: number for name, number in summary.values().items() if name != "refused"}
        output.say(", ".join(f"{name} {number}" for name, number in counts.items()))
        for each in summary.refused:
            output.complain(f"{each.path}: {each.reason}")
    return 1 if summary.refused else 0


def _imported(settings: Config, found: list[Source], ray: str | None, report: output.Reporter) -> Summary:
    with open_store(settings) as store:  # a new archive is one after this
        if not ray:
            return importing.run(found, importing.Threads(store, settings.storage), report)
    from dicomnode import cluster

    absolute = [Source(source.path.resolve(), source.member) for source in found]
    takers = cluster.RayTakers(settings, ray, max(1, settings.ingest.workers))
    try:
        return importing.run(absolute, takers, report)
    finally:
        takers.close()
