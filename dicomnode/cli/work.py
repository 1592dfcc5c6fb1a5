"""`dicomnode work`: workers for an archive that nodes elsewhere receive for, until SIGTERM or Ctrl-C."""

import argparse
import json
import signal
from pathlib import Path
from queue import SimpleQueue

from dicomnode.cli import options, output


def add(commands: options.Commands) -> None:
    """The command's flags."""
    parser = commands.add_parser("work", help="run workers alone, beside nodes on the same root and database")
    options.archive(parser)
    parser.add_argument("--workers", type=int, help="worker processes")
    options.json_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start, print the ready line, wait for a signal, stop."""
    config = options.load(arguments, **{"ingest.workers": arguments.workers})
    from dicomnode.crew import Crew

    signals: SimpleQueue[int] = SimpleQueue()  # a handler may put into it at any instruction
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, _: signals.put(number))
    crew = Crew(config)
    crew.start()
    workers, root = config.ingest.workers, str(Path(config.storage.root).resolve())
    if arguments.json:
        print(json.dumps({"ready": True, "workers": workers, "node": config.node, "root": root}), flush=True)
    else:
        output.say(f"ready: {workers} workers of {config.node}, archive in {root}")
        output.OUT.file.flush()
    signals.get()
    crew.stop()
    return 0
