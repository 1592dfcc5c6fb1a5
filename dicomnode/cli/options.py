"""Flags that several commands share, and the way from parsed arguments to a Config."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from dicomnode import config, log
from dicomnode.dimse.client import Peer
from dicomnode.dimse.tls import ClientTls
from dicomnode.errors import ConfigError
from dicomnode.settings import DECLARED, Config

Commands = Any  # argparse's sub-parser collection has no public name


def archive(parser: argparse.ArgumentParser) -> None:
    """--root and --config: commands for the machine the node runs on."""
    parser.add_argument("--root", metavar="DIR", help=DECLARED["storage.root"].about)
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


CALLED, CALLING = "DICOMNODE", "DICOMNODE_SCU"
TLS_FILES = (
    ("--tls-ca", "PEM file with the authorities of the peer's certificate (default: the system's)"),
    ("--tls-cert", "PEM file with the certificate to show"),
    ("--tls-key", "PEM file with its private key (default: in the same file)"),
)


def peer(parser: argparse.ArgumentParser) -> None:
    """Who is called, as whom and how: commands of the client side."""
    parser.add_argument(
        "peer", metavar="HOST:PORT", type=_address, help="the node to call, or the name of a configured peer"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the peers table")
    parser.add_argument("--called", metavar="AET", help=f"AE title to call (default: {CALLED}, or the configured one)")
    parser.add_argument(
        "--calling", metavar="AET", help=f"AE title to call as (default: {CALLING}; to a configured peer the node's)"
    )
    parser.add_argument("--tls", action="store_true", help="call over TLS; the files below say so too")
    for flag, text in TLS_FILES:
        parser.add_argument(flag, default="", metavar="FILE", help=text)


def _address(text: str) -> str:
    """`HOST:PORT` is checked here; a name is looked up when the configuration is read."""
    try:
        if ":" in text:
            Peer.parse(text, "", "")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def called_peer(arguments: argparse.Namespace) -> Peer:
    """The peer of the flags. ConfigError when it is a name that is not configured."""
    if ":" in arguments.peer:
        found = Peer.parse(arguments.peer, CALLED, CALLING)
    else:
        found = _configured_peer(arguments.peer, arguments.config)
    return replace(
        found,
        called=arguments.called or found.called,
        calling=arguments.calling or found.calling,
        tls=_tls(arguments, found.tls),
    )


def _configured_peer(name: str, file: Path | None) -> Peer:
    loaded = config.load(file)
    try:
        settings = loaded.peer(name)
    except ConfigError as error:
        raise ConfigError(f"expected HOST:PORT or the name of a peer: {error}") from error
    return Peer.configured(settings, loaded.dimse.ae_title, loaded.tls)


def _tls(arguments: argparse.Namespace, known: ClientTls | None) -> ClientTls | None:
    """What the peers table says of TLS, with the flags' files instead of its own where they are given."""
    given = {"authorities": arguments.tls_ca, "certificate": arguments.tls_cert, "key": arguments.tls_key}
    if arguments.tls_cert and not arguments.tls_key:
        given["key"] = arguments.tls_cert
    given = {field: value for field, value in given.items() if value}
    if not (arguments.tls or known or given):
        return None
    return replace(known or ClientTls(), **given)
