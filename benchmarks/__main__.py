"""`python -m benchmarks [NAME...]`: run the benchmarks, print their tables, and write them to build/bench.json."""

import argparse
import json
import os
import platform
from pathlib import Path

from benchmarks import index, ingest, query, store

ALL = {"ingest": ingest.run, "store": store.run, "query": query.run, "index": index.run}


def main() -> None:
    """Run what is named, all by default."""
    parser = argparse.ArgumentParser(description="benchmarks of this machine")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(ALL)}")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each measurement (default: %(default)s)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(ALL)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    results = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
    }
    for name in arguments.names or ALL:
        results[name] = ALL[name](arguments.repeat)
        print(f"\n{name}")
        for measure, value in results[name].items():
            print(f"  {measure:48s} {value}")
    path = Path("build/bench.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2), encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
