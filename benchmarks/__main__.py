"""`python -m benchmarks [NAME...]`: run the benchmarks, print their tables, and write them to build/bench.json."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import (
    dimse,
    documents,
    index,
    ingest,
    machine,
    pgvector,
    query,
    reindex,
    scale,
    sizing,
    steps,
    store,
    web,
)
from benchmarks.tables import Table

ALL: dict[str, Callable[[int], Any]] = {
    "ingest": ingest.run,
    "store": store.run,
    "steps": steps.run,
    "query": query.run,
    "index": index.run,
    "sizing": sizing.run,
    "pgvector": pgvector.run,
    "dimse": dimse.run,
    "web": web.run,
    "reindex": reindex.run,
    "scale": scale.run,
}
LONG = {"scale"}  # only when named: long, and gigabytes of disk


def main() -> None:
    """Run what is named, all by default."""
    arguments = _arguments()
    results: dict[str, Any] = {"machine": machine.note()}
    tables: dict[str, Table] = {}
    for name in arguments.names or [name for name in ALL if name not in LONG]:
        tables[name] = _run(name, arguments)
        tables[name] = replace(tables[name], notes=(*tables[name].notes, machine.note()))
        results[name] = tables[name].values
        tables[name].show(name)
        if arguments.into:  # each at once: a run takes an hour, and what was measured is kept
            _write(arguments.into, documents.filled(arguments.into.read_text(encoding="utf-8"), {name: tables[name]}))
    _write(arguments.json, json.dumps(results, indent=2))
    if arguments.markdown:
        _write(arguments.markdown, "\n".join(f"### {name}\n\n{table.markdown()}" for name, table in tables.items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="benchmarks of this machine")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(ALL)}")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each measurement (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two runs of each, and less of what takes long")
    parser.add_argument("--regions", type=int, metavar="N", help="scale: the largest archive")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="scale: a picture of how everything grows (PNG)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="PATH", help="the values")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="the tables as Markdown")
    parser.add_argument(
        "--into", type=Path, metavar="PATH", help="a document whose sections of the same names are filled"
    )
    parser.add_argument("--films", type=Path, metavar="FOLDER", help="films instead of drawn ones (web, scale)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(ALL)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    return arguments


def _run(name: str, arguments: argparse.Namespace) -> Table:
    found = _work(name, arguments)(2 if arguments.quick else arguments.repeat)
    return found if isinstance(found, Table) else Table.of(found)


def _work(name: str, arguments: argparse.Namespace) -> Callable[[int], Any]:
    if name in ("dimse", "store"):
        return partial(ALL[name], quick=arguments.quick)
    if name == "reindex":
        return partial(reindex.run, quick=arguments.quick)
    if name == "web":
        return partial(web.run, quick=arguments.quick, given=arguments.films)
    if name == "scale":
        return partial(
            scale.run,
            quick=arguments.quick,
            regions=arguments.regions,
            source=arguments.films,
            plot=arguments.plot,
        )
    return ALL[name]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
