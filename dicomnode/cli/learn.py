"""`dicomnode train`: the researcher. Models are imported only when it runs."""

import argparse
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomnode.cli import options, output

if TYPE_CHECKING:
    from encoder.train.loop import TrainOptions

Trainer = Callable[[Any, output.Reporter], None]

WHOLE = "all"
PARTS = {
    "detector": "boxes and presence of the regions",
    "encoder": "vectors of the regions",
    "local": "the encoder's local head: where an ROI smaller than a region looks alike",
    "finding": "the encoder's finding projection, for films whose findings are known",
    WHOLE: "the four one after the other: a whole model set; without findings, the first three",
}


def add(commands: options.Commands) -> None:
    """The commands' flags."""
    train = commands.add_parser("train", help="train a model set, compare ways of training, or build the film drawer")
    parts = train.add_subparsers(dest="part", metavar="PART", required=True)
    for name, text in PARTS.items():
        part = parts.add_parser(name, help=text)
        _add_common(part)
        _add_images(part)
        part.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
        part.add_argument("--epochs", type=int, help="passes over the films (default: the recipe's)")
        part.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
        part.add_argument("--threads", type=int, help="of torch (default: as many as there are cores)")
        part.add_argument("--source", help="only films of this source (`dataset` of their records)")
        part.add_argument("--resume", action="store_true", help="go on from the run folder's last epoch")
        part.set_defaults(run=train_model)
        if name == "encoder":
            part.add_argument("--objective", help="what the vectors are trained for (default: the shipped one)")
            part.add_argument("--from-scratch", action="store_true", help="do not start from the detector's trunk")
    compare = parts.add_parser("compare", help="every objective of the encoder over several seeds, in one table")
    _add_common(compare)
    _add_images(compare)
    compare.add_argument(
        "--detector", type=Path, metavar="DIR", help="model set whose boxes are used (default: shipped)"
    )
    compare.add_argument("--objective", nargs="+", metavar="NAME", help="(default: all)")
    compare.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    compare.add_argument("--epochs", type=int, help="passes over the films of each run (default: the recipe's)")
    compare.add_argument("--size", type=int, help="pixels, side of the frame (default: the shipped one's)")
    compare.add_argument("--crops", type=int, help="pixels, side of a crop a region (default: one pass over the film)")
    compare.add_argument("--split", help="the films that are measured (default: dev_val)")
    compare.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    compare.add_argument("--threads", type=int, help="of torch (default: as many as there are cores)")
    options.json_flag(compare)
    compare.set_defaults(run=compare_objectives)
    phantoms = parts.add_parser("phantoms", help="the statistical model that draws films of nobody")
    _add_common(phantoms)
    phantoms.set_defaults(run=build_phantoms)


def _add_common(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="films in the layout of data/cxr, or Chest ImaGenome"
    )
    part.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder")


def _add_images(part: argparse.ArgumentParser) -> None:
    part.add_argument("--images", type=Path, metavar="DIR", help="where the pictures are (default: in the data folder)")


def train_model(arguments: argparse.Namespace) -> int:
    """One training run; its folder can then be used as a model set."""
    from encoder.errors import NoFindings

    wanted = replace(
        _options(arguments),
        seed=arguments.seed,
        source=arguments.source,
        resume=arguments.resume,
        objective=_known(getattr(arguments, "objective", None)),
        from_scratch=getattr(arguments, "from_scratch", False),
    )
    with output.progress() as report:
        for train in _trainers(arguments.part):
            try:
                train(wanted, report)
            except NoFindings as error:
                if arguments.part != WHOLE:
                    raise
                report("left out", 0, 0, str(error))
    output.say(f"run folder: {arguments.out}")
    return 0


def _options(arguments: argparse.Namespace) -> "TrainOptions":
    """What every training command is told."""
    from dicomnode.pixels.labelled import LabelledFilms
    from encoder.train.loop import TrainOptions

    return TrainOptions(
        data=arguments.data,
        out=arguments.out,
        images=arguments.images,
        decoder=LabelledFilms(),
        epochs=arguments.epochs,
        device=arguments.device,
        threads=arguments.threads,
        commit=_commit(),
    )


def _trainers(part: str) -> list[Trainer]:
    """What to run, in the order in which each builds on the one before."""
    from encoder.train.detector import train_detector
    from encoder.train.encoder import train_encoder
    from encoder.train.finding import train_finding
    from encoder.train.local import train_local

    steps: dict[str, Trainer] = {
        "detector": train_detector,
        "encoder": train_encoder,
        "local": train_local,
        "finding": train_finding,
    }
    return list(steps.values()) if part == WHOLE else [steps[part]]


def compare_objectives(arguments: argparse.Namespace) -> int:
    """The table of what each way of training is worth."""
    from encoder.compare import Comparison, compare
    from encoder.pipeline import SHIPPED

    given = {
        "objectives": arguments.objective and tuple(map(_known, arguments.objective)),
        "seeds": tuple(arguments.seed),
        "size": arguments.size,
        "crops": arguments.crops,
        "split": arguments.split,
    }
    wanted = Comparison(**{name: value for name, value in given.items() if value})
    with output.progress(quiet=arguments.json) as report:
        result = compare(_options(arguments), wanted, arguments.detector or SHIPPED, report)
    if arguments.json:
        output.as_json(result)
    else:
        # The other ranges are in the JSON: beside them no line fits a page.
        columns = [name for name in result["table"][0] if name == "map_range" or not name.endswith("_range")]
        rows = [[str(row.get(name, "")) for name in columns] for row in result["table"]]
        output.table("held patients", columns, rows)
    return 0


def _known(objective: str | None) -> str | None:
    """The name of an objective; TrainingDataError for one that there is not."""
    from encoder.errors import TrainingDataError
    from encoder.train.encoder import OBJECTIVES

    if objective not in (None, *OBJECTIVES):
        raise TrainingDataError(f"no objective {objective}; there are {', '.join(OBJECTIVES)}")
    return objective


def build_phantoms(arguments: argparse.Namespace) -> int:
    """Build the shape-and-appearance model."""
    from encoder.phantoms.build import build

    with output.progress() as report:
        made = build(arguments.data, arguments.out, report)
    output.say(f"{made}: {made.stat().st_size / 1e6:.2f} MB")
    return 0


def _commit() -> str | None:
    """The commit that trains, when this is a checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
