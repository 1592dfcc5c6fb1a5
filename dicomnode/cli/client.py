"""`dicomnode echo`, `send`, `query` and `fetch`: the client side, against this node or any other."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicomnode.cli import options, output
from dicomnode.dimse import client
from dicomnode.dimse import fetch as retrieval
from dicomnode.errors import ConfigError, PeerError
from dicomnode.query import request
from dicomnode.uids import is_uid
from encoder.anatomy import VOCABULARY, Anatomy
from encoder.boxes import Box


def add(commands: options.Commands) -> None:
    """The commands' flags."""
    _add_echo(commands)
    _add_send(commands)
    _add_query(commands)
    _add_fetch(commands)


def _add_echo(commands: options.Commands) -> None:
    parser = commands.add_parser("echo", help="verify a DICOM connection (C-ECHO)")
    options.peer(parser)
    options.json_flag(parser)
    parser.set_defaults(run=echo)


def _add_send(commands: options.Commands) -> None:
    parser = commands.add_parser("send", help="send DICOM files or folders (C-STORE)")
    options.peer(parser)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="DICOM file, or folder of them")
    options.json_flag(parser)
    parser.set_defaults(run=send)


def _add_query(commands: options.Commands) -> None:
    parser = commands.add_parser("query", help="ask for the regions most similar to a marked one (C-FIND)")
    options.peer(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--sr", type=Path, metavar="FILE", help="Structured Report that holds the ROI")
    asked.add_argument("--image", metavar="UID", help="SOP Instance UID of a stored image; needs --box")
    parser.add_argument("--box", type=_box, metavar="X1,Y1,X2,Y2", help="the ROI, pixels of the stored image")
    parser.add_argument("--anatomy", type=anatomy_named, metavar="NAME", help='only this anatomy, e.g. "right lung"')
    parser.add_argument("--k", type=int, default=10, metavar="N", help="hits at most (default: %(default)s)")
    parser.add_argument("--scope", choices=("OTHER", "ANY", "SAME"), default="OTHER", help="whose regions may answer")
    parser.add_argument("--minimum-score", type=float, metavar="COSINE", help="least similarity, -1 to 1")
    parser.add_argument(
        "--match",
        action="append",
        default=[],
        type=_match,
        metavar="KEYWORD=VALUE",
        help="standard key that narrows first, e.g. PatientSex=F or StudyDate=20200101-20201231; may be repeated",
    )
    options.json_flag(parser)
    parser.set_defaults(run=query)


def _add_fetch(commands: options.Commands) -> None:
    parser = commands.add_parser("fetch", help="retrieve what a node keeps (C-GET), or have it sent elsewhere (C-MOVE)")
    options.peer(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    for flag, (keyword, name) in FETCHED.items():
        asked.add_argument(flag, dest="fetched", type=partial(_fetched, keyword), metavar=name, help=f"its {keyword}")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=Path, metavar="FOLDER", help="folder for the files, each named by its UID")
    where.add_argument("--move-to", metavar="AET", help="AE title, known to that node, that it shall send them to")
    options.json_flag(parser)
    parser.set_defaults(run=fetch)


FETCHED = {
    "--study": ("StudyInstanceUID", "UID"),
    "--series": ("SeriesInstanceUID", "UID"),
    "--image": ("SOPInstanceUID", "UID"),
    "--patient": ("PatientID", "ID"),
}


def _fetched(keyword: str, value: str) -> tuple[str, str]:
    if not value or any(char in value for char in "*?\\") or (keyword != "PatientID" and not is_uid(value)):
        raise argparse.ArgumentTypeError(f"not a {keyword}: {value}")
    return keyword, value


def _box(text: str) -> Box:
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected X1,Y1,X2,Y2, got {text}") from error
    return Box(x1, y1, x2, y2)


def anatomy_named(text: str) -> Anatomy:
    """The vocabulary entry of a flag."""
    try:
        return VOCABULARY.named(text)
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"no such anatomy; one of: {', '.join(VOCABULARY.names)}") from error


def _match(text: str) -> tuple[str, str]:
    keyword, separator, value = text.partition("=")
    if not separator or not request.is_keyword(keyword):
        raise argparse.ArgumentTypeError(f"expected KEYWORD=VALUE with a DICOM keyword, got {text}")
    return keyword, value


def echo(arguments: argparse.Namespace) -> int:
    """0 when the peer answers with Success."""
    peer = options.called_peer(arguments)
    status = client.echo(peer)
    if arguments.json:
        output.as_json({"status": status})
    else:
        output.say(f"{peer.called} at {peer.host}:{peer.port}: 0x{status:04X}")
    return 0 if status == 0 else 1


def send(arguments: argparse.Namespace) -> int:
    """0 when every file was accepted; each that was not is named with its reason."""
    missing = [str(path) for path in arguments.paths if not path.exists()]
    if missing:
        raise PeerError(f"no such file or folder: {', '.join(missing)}")
    files = client.dicom_files(arguments.paths)
    if not files:
        raise PeerError("no DICOM files there")
    results = []
    with output.progress(quiet=arguments.json) as report:
        for sent in client.send(options.called_peer(arguments), files):
            results.append(sent)
            report("sending", len(results), len(files), "")
    failed = [sent for sent in results if not sent.ok]
    if arguments.json:
        refused = [{"path": str(sent.path), "status": sent.status, "reason": sent.reason} for sent in failed]
        output.as_json({"sent": len(results) - len(failed), "failed": refused})
    else:
        output.say(f"{len(results) - len(failed)} of {len(results)} accepted")
        for sent in failed:
            code = "not sent" if sent.status is None else f"0x{sent.status:04X}"
            output.complain(f"{sent.path}: {code} {sent.reason}")
    return 1 if failed else 0


def query(arguments: argparse.Namespace) -> int:
    """Print the ranked hits."""
    peer = options.called_peer(arguments)
    keys = request.Keys(
        anatomy=arguments.anatomy,
        matches=arguments.k,
        scope=arguments.scope,
        minimum_score=arguments.minimum_score,
        standard=dict(arguments.match),
    )
    if arguments.sr is not None:
        identifier = request.by_sr(_sr(arguments.sr), keys)
    else:
        if arguments.box is None:
            raise ConfigError("--image needs --box")
        sop_class = request.sop_class_of(arguments.image, lambda asked: client.find(peer, asked))
        identifier = request.by_box(arguments.image, sop_class, arguments.box, keys)
    hits = [request.read_hit(match) for match in client.find(peer, identifier)]
    _print_hits(hits, as_json=arguments.json)
    return 0


def fetch(arguments: argparse.Namespace) -> int:
    """0 when everything that matched was sent."""
    peer = options.called_peer(arguments)
    keyword, value = arguments.fetched
    with output.progress(quiet=arguments.json) as report:
        tell = partial(_tell_fetched, report)
        if arguments.move_to:
            done = retrieval.move(peer, keyword, value, arguments.move_to, tell)
        else:
            retrieval.prepare(arguments.to)
            done = retrieval.fetch(peer, keyword, value, arguments.to, tell)
    if arguments.json:
        output.as_json(
            {"status": done.status, "completed": done.completed, "failed": done.failed, "warnings": done.warnings}
            | {"reason": done.reason, "files": [str(path) for path in done.files]}
        )
    else:
        output.say(f"{done.completed + done.warnings} of {done.completed + done.warnings + done.failed} retrieved")
    if not done.ok or not done.completed + done.warnings:
        output.complain(f"0x{done.status:04X} {done.reason}")
        return 1
    return 0


def _tell_fetched(report: output.Reporter, done: int, total: int) -> None:
    if total:
        report("retrieving", done, total, "")


def _sr(path: Path) -> Any:
    try:
        return dcmread(path)
    except (InvalidDicomError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a DICOM file"
        raise PeerError(f"cannot read {path}: {reason}") from error


def _print_hits(hits: list[request.ReadHit], *, as_json: bool) -> None:
    if as_json:
        output.as_json({"hits": [hit.as_dict() for hit in hits]})
        return
    warned = any(hit.warning for hit in hits)
    columns = ["rank", "score", "anatomy", "patient", "study date", "SOP Instance UID"] + ["warning"] * warned
    rows = [
        [hit.rank, hit.score, hit.anatomy, hit.patient_id, hit.study_date, hit.sop_instance_uid]
        + [hit.warning] * warned
        for hit in hits
    ]
    output.table("most similar regions", columns, rows)
