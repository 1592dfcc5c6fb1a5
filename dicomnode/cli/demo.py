"""`dicomnode demo`: see it work, with films of nobody or your own."""

import argparse
from pathlib import Path

from dicomnode.cli import admin, options, output
from dicomnode.cli.client import anatomy_named
from encoder.anatomy import VOCABULARY

DEFAULT_ANATOMY = "cardiac silhouette"


def add(commands: options.Commands) -> None:
    """The command's flags."""
    parser = commands.add_parser("demo", help="start a node, send it films, ask for similar regions, draw the answer")
    parser.add_argument("--films", type=Path, metavar="DIR", help="your own DICOM files or pictures")
    parser.add_argument("--count", type=_several, default=60, metavar="N", help="films to draw (default: %(default)s)")
    parser.add_argument(
        "--anatomy",
        type=anatomy_named,
        default=VOCABULARY.named(DEFAULT_ANATOMY),
        metavar="NAME",
        help=f"the region to ask about (default: {DEFAULT_ANATOMY})",
    )
    parser.add_argument("--k", type=int, default=8, metavar="N", help="hits to show (default: %(default)s)")
    parser.add_argument(
        "--picture", type=Path, default=Path("dicomnode-demo.png"), metavar="FILE", help="(default: %(default)s)"
    )
    options.json_flag(parser)
    parser.set_defaults(run=run)


def _several(text: str) -> int:
    count = int(text)
    if count < 2:
        raise argparse.ArgumentTypeError("at least 2: one film asks, the others answer")
    return count


def run(arguments: argparse.Namespace) -> int:
    """Show it."""
    from dicomnode.demo.run import DemoOptions
    from dicomnode.demo.run import run as show

    wanted = DemoOptions(arguments.films, arguments.count, arguments.anatomy, arguments.k, arguments.picture)
    with output.progress(quiet=arguments.json) as report:
        result = show(wanted, report, lambda root: admin.wait_with(root, report))
    if arguments.json:
        output.as_json({"accepted": result.accepted, "indexed": result.indexed, "hits": result.hits})
        return 0
    output.say(f"{result.accepted} films accepted, {result.indexed} indexed; asked: {wanted.anatomy.name}")
    output.table(
        "most similar regions of other patients",
        ("rank", "score", "anatomy", "patient", "study date", "SOP Instance UID"),
        [
            (hit["rank"], hit["score"], hit["anatomy"], hit["patient_id"], hit["study_date"], hit["sop_instance_uid"])
            for hit in result.hits
        ],
    )
    output.say(f"picture: {result.picture.resolve()}")
    return 0
