"""Flags that several commands share, and the way from parsed arguments to a Config."""

import argparse
from pathlib import Path
from typing import Any

from dicomnode import config, log
from dicomnode.config import Config
from dicomnode.dimse.client import Peer

Commands = Any  # argparse's sub-parser collection has no public name


def archive(parser: argparse.ArgumentParser) -> None:
    """--root and --config: commands for the machine the node runs on."""
    parser.add_argument("--root", metavar="DIR", help=config.DECLARED["storage.root"].about)
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")


def json_flag(parser: argparse.ArgumentParser) -> None:
    """--json: one JSON document instead of text."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def load(arguments: argparse.Namespace, **flags: Any) -> Config:
    """The effective configuration of a command, with logging set up from it."""
    given = {"storage.root": arguments.root} | flags
    loaded = config.load(arguments.config, flags=given)
    log.configure(loaded.log.level, loaded.log.format)
    return loaded


def peer(parser: argparse.ArgumentParser) -> None:
    """HOST:PORT and the two AE titles: commands of the client side."""
    parser.add_argument("peer", metavar="HOST:PORT", type=_address, help="the node to call")
    parser.add_argument("--called", default="DICOMNODE", metavar="AET", help="AE title to call (default: %(default)s)")
    parser.add_argument(
        "--calling", default="DICOMNODE_SCU", metavar="AET", help="AE title to call as (default: %(default)s)"
    )


def _address(text: str) -> str:
    try:
        Peer.parse(text, "", "")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def called_peer(arguments: argparse.Namespace) -> Peer:
    """The peer of the flags."""
    return Peer.parse(arguments.peer, arguments.called, arguments.calling)
