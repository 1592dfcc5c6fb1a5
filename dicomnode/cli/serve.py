"""`dicomnode serve`: the node, until SIGTERM or Ctrl-C."""

import argparse
import json
import signal
import threading
from pathlib import Path

from dicomnode.cli import options, output


def add(commands: options.Commands) -> None:
    """The command's flags."""
    parser = commands.add_parser("serve", help="run the node: receiver, workers, queries")
    options.archive(parser)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="TCP port for DICOM; 0 takes a free one")
    parser.add_argument("--ae-title", metavar="AET", help="AE title of the node")
    parser.add_argument("--workers", type=int, help="worker processes")
    options.json_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start, print the ready line, wait for a signal, stop in order."""
    config = options.load(
        arguments,
        **{
            "dimse.host": arguments.host,
            "dimse.port": arguments.port,
            "dimse.ae_title": arguments.ae_title,
            "ingest.workers": arguments.workers,
        },
    )
    from dicomnode.node import Node

    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    node = Node(config)
    node.start()
    root = str(Path(config.storage.root).resolve())
    ready = {"ready": True, "host": config.dimse.host, "port": node.port, "ae_title": config.dimse.ae_title}
    if arguments.json:
        print(json.dumps(ready | {"root": root}), flush=True)
    else:
        output.say(f"ready: {config.dimse.ae_title} on {config.dimse.host}:{node.port}, archive in {root}")
        output.OUT.file.flush()
    stopping.wait()
    node.stop()
    return 0
