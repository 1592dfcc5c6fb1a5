"""`dicomnode serve`: the node, until SIGTERM or Ctrl-C."""

import argparse
import gc
import json
import signal
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from dicomnode import notify
from dicomnode.cli import options, output
from dicomnode.settings import Config

if TYPE_CHECKING:
    from dicomnode.node import Node


def add(commands: options.Commands) -> None:
    """The command's flags."""
    parser = commands.add_parser("serve", help="run the node: receiver, workers, queries")
    options.archive(parser)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="TCP port for DICOM; 0 takes a free one")
    parser.add_argument("--http-port", type=int, metavar="N", help="TCP port for HTTP, which is off without it; 0: any")
    parser.add_argument("--ae-title", metavar="AET", help="AE title of the node")
    parser.add_argument("--workers", type=int, help="worker processes")
    options.json_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start, print the ready line, wait for a signal, stop in order. SIGHUP takes up the TLS certificates anew."""
    config = options.load(
        arguments,
        **{
            "dimse.host": arguments.host,
            "dimse.port": arguments.port,
            "web.enabled": None if arguments.http_port is None else True,
            "web.port": arguments.http_port,
            "dimse.ae_title": arguments.ae_title,
            "ingest.workers": arguments.workers,
        },
    )
    from dicomnode.node import Node

    signals: SimpleQueue[int] = SimpleQueue()  # a handler may put into it at any instruction
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda number, _: signals.put(number))
    node = Node(config)
    node.start()
    gc.freeze()  # what the start has made stays: looking for garbage in it takes time from every arrival
    _say_ready(node, config, as_json=arguments.json)
    notify.tell(notify.READY)
    while signals.get() == signal.SIGHUP:
        notify.tell(notify.reloading())
        node.reload_certificates()
        notify.tell(notify.READY)
    notify.tell(notify.STOPPING)
    node.stop()
    return 0


def _say_ready(node: "Node", config: Config, *, as_json: bool) -> None:
    dimse, root = config.dimse, str(Path(config.storage.root).resolve())
    ready: dict[str, Any] = {"ready": True, "host": dimse.host, "port": node.port, "ae_title": dimse.ae_title}
    secure = {} if node.tls_port is None else {"tls_port": node.tls_port}
    http = {} if node.http_port is None else {"http_port": node.http_port}
    if as_json:
        print(json.dumps(ready | secure | http | {"root": root}), flush=True)
        return
    ports = [] if node.port is None else [f"{dimse.host}:{node.port}"]
    ports += [] if node.tls_port is None else [f"{config.tls.host or dimse.host}:{node.tls_port} with TLS"]
    ports += [] if node.http_port is None else [f"{config.web.host or dimse.host}:{node.http_port} with HTTP"]
    output.say(f"ready: {dimse.ae_title} on {' and '.join(ports)}, archive in {root}")
    output.OUT.file.flush()
