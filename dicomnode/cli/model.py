"""`dicomnode model`: an encoder that somebody else made is packed with its manifest, and any model set is checked."""

import argparse
import math
from pathlib import Path
from typing import Any

from dicomnode.cli import options, output


def add(commands: options.Commands) -> None:
    """The commands' flags."""
    model = commands.add_parser("model", help="bring your own encoder: pack it, check it")
    verbs = model.add_subparsers(dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="everything that can be checked of a model set without a film of yours")
    check.add_argument("folder", type=Path, metavar="DIR")
    check.set_defaults(run=check_model)
    pack = verbs.add_parser("pack", help="check a TorchScript program and write it with its manifest")
    pack.add_argument("--script", type=Path, required=True, metavar="FILE", help="what torch.jit.save wrote")
    pack.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, without an encoder yet")
    pack.add_argument(
        "--input", choices=("crops", "frame"), required=True, help="a picture of each box, or of the film"
    )
    pack.add_argument("--size", type=int, required=True, metavar="PX", help="side of the picture")
    pack.add_argument("--dim", type=int, required=True, metavar="N", help="numbers in a vector")
    pack.add_argument("--mean", type=_numbers, default=(0.0,), metavar="M[,M,M]", help="one for grey, three for colour")
    pack.add_argument("--std", type=_numbers, default=(1.0,), metavar="S[,S,S]", help="as many")
    pack.add_argument("--context", type=float, help="crops: share added around a box (default: 0.15)")
    pack.add_argument(
        "--film", type=int, metavar="PX", help="crops: side of the film they are cut from (default: 1024)"
    )
    pack.add_argument("--data", default="", metavar="TEXT", help="what it was trained on, for the manifest")
    pack.set_defaults(run=pack_model)
    for parser in (check, pack):
        options.json_flag(parser)


def _numbers(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r} is not one number, nor three")
    return values


def check_model(arguments: argparse.Namespace) -> int:
    """0 and what the set is; 1 and the first thing that is wrong."""
    from dicomnode import models

    card = models.prove(arguments.folder)
    facts = {
        "model": card.model_id,
        "detector": card.detector_id,
        "encoder": card.encoder_id,
        "kind": card.kind,
        "dim": card.dim,
        "projections": list(card.projections),
        "regions": len(card.regions),
    }
    if arguments.json:
        output.as_json(facts)
    else:
        output.table("a usable model set", ("what", "value"), [(name, _shown(value)) for name, value in facts.items()])
    return 0


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def pack_model(arguments: argparse.Namespace) -> int:
    """A folder for `model check` and `reindex --model`."""
    from encoder.plugin import pack
    from encoder.scripted import ScriptShape

    chosen = {name: getattr(arguments, name) for name in ("context", "film") if getattr(arguments, name) is not None}
    shape = ScriptShape(
        input=arguments.input,
        size=arguments.size,
        dim=arguments.dim,
        mean=arguments.mean,
        std=arguments.std,
        **chosen,
    )
    manifest = pack(arguments.script, shape, arguments.out, arguments.data)
    if arguments.json:
        output.as_json({"encoder": manifest.model_id, "folder": str(arguments.out)})
    else:
        output.say(f"encoder {manifest.model_id} in {arguments.out}")
    return 0
