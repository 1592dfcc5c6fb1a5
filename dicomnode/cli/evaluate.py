"""`dicomnode evaluate`: what the models and the archive are worth. Models are imported only when it runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dicomnode.cli import options, output
from dicomnode.errors import DicomNodeError

if TYPE_CHECKING:
    from encoder.evaluate.evaluation import Evaluation


def add(commands: options.Commands) -> None:
    """The commands' flags."""
    evaluate = commands.add_parser("evaluate", help="measure detector, retrieval and warnings")
    kinds = evaluate.add_subparsers(dest="kind", metavar="KIND", required=True)
    films = kinds.add_parser("films", help="on a folder of films with true regions")
    films.add_argument("folder", type=Path, metavar="DIR", help="in the layout of data/cxr, or Chest ImaGenome")
    films.add_argument("--images", type=Path, metavar="DIR", help="where the pictures are (default: in the folder)")
    films.add_argument("--model", type=Path, metavar="DIR", help="model set (default: the shipped one)")
    films.add_argument("--split", help="only records of this split; all: every record (default: dev_val where marked)")
    films.add_argument("--source", metavar="NAME", help="only films of this source (`dataset` of their records)")
    films.add_argument("--sample", type=int, metavar="N", help="films at the most, whole patients (default: all)")
    films.add_argument("--others", type=Path, metavar="DIR", help="pictures or DICOM files that are no chest films")
    films.set_defaults(run=evaluate_films)
    archive = kinds.add_parser("archive", help="on the live index, with stored SRs and SEGs as truth")
    options.archive(archive)
    archive.add_argument("--sample", type=int, metavar="N", help="regions at the most, whole patients (default: 20000)")
    archive.set_defaults(run=evaluate_archive)
    for kind in (films, archive):
        kind.add_argument("--html", type=Path, metavar="FILE", help="write a report: one file, no outside requests")
        options.json_flag(kind)


def evaluate_films(arguments: argparse.Namespace) -> int:
    """The numbers of MODELS.md section 4, with the trivial rows beside them."""
    from dicomnode.pixels.labelled import LabelledFilms
    from dicomnode.pixels.others import Others
    from encoder.data import read
    from encoder.evaluate.films import evaluate_films as evaluate
    from encoder.pipeline import SHIPPED, Pipeline

    others = Others(arguments.others) if arguments.others else None
    with output.progress(quiet=arguments.json) as report:
        collection = read(arguments.folder, arguments.images, LabelledFilms(), report)
        pipeline = Pipeline.load(arguments.model or SHIPPED)
        result = evaluate(
            collection.of_source(arguments.source), pipeline, arguments.split, others or (), report, arguments.sample
        )
    if others is not None:
        result.summary["others_refused"] = dict(sorted(others.refused.items()))
    _hand_out(result, arguments)
    return 0


def evaluate_archive(arguments: argparse.Namespace) -> int:
    """The live index, read only: a node may be answering from it meanwhile."""
    from dicomnode import evaluation
    from dicomnode.cli.admin import existing

    settings = options.load(arguments)
    store = existing(settings)
    try:
        with output.progress(quiet=arguments.json) as report:
            result = evaluation.evaluate(store, arguments.sample or evaluation.MOST_REGIONS, report)
    finally:
        store.close()
    _hand_out(result, arguments)
    return 0


def _hand_out(result: "Evaluation", arguments: argparse.Namespace) -> None:
    """Print first: a report that cannot be written must not cost what was measured."""
    from encoder.evaluate.report import write

    if arguments.json:
        output.as_json(result.summary)
    else:
        _show(result.summary)
    if arguments.html:
        try:
            write(arguments.html, result)
        except OSError as error:
            raise DicomNodeError(f"cannot write {arguments.html}: {error.strerror}") from error
        if not arguments.json:
            output.say(f"report: {arguments.html}")


def _show(summary: dict[str, object]) -> None:
    from encoder.evaluate.tables import tables, text

    for table in tables(summary):
        if table.rows:
            output.table(table.title, table.columns, [[text(cell) for cell in row] for row in table.rows])
        if table.note:
            output.say(f"{table.title}: {table.note}")
        output.say("")
