"""C-STORE: acknowledged instances a second, durable and catalogued, against DCMTK's storescp (which never syncs)."""

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import dcmread

from benchmarks import films, timing
from dicomnode.demo.run import serving
from dicomnode.uids import new_uid

COPIES = 10  # of each film, under other UIDs


def run(repeat: int) -> dict[str, Any]:
    """storescu sends to each in turn; ratios in this run only."""
    if not shutil.which("storescu") or not shutil.which("storescp"):
        return {"skipped": "DCMTK is not installed"}
    with tempfile.TemporaryDirectory(prefix="bench-store-") as scratch:
        folder = Path(scratch)
        with serving(folder / "root", "--workers", "0") as node, storescp(folder / "peer") as port:
            rounds = iter(range(10_000))
            taken = timing.in_turn(
                {
                    "node": lambda: send(node["port"], copies(folder, next(rounds))),
                    "storescp": lambda: send(port, copies(folder, next(rounds))),
                },
                0,
            )
            for _ in range(repeat):
                for name, target in (("node", node["port"]), ("storescp", port)):
                    batch = copies(folder, next(rounds))
                    taken[name].append(timing.seconds(lambda t=target, b=batch: send(t, b)))
    count = COPIES * films.COUNT
    rate = {name: count / statistics.median(values) for name, values in taken.items()}
    return {
        "objects": f"{count} DX of 512 x 512, one association",
        "node, C-STORE/s (synced and catalogued)": f"{rate['node']:.0f}",
        "storescp, C-STORE/s (not synced)": f"{rate['storescp']:.0f}",
        "ratio": f"{rate['node'] / rate['storescp']:.2f}",
    }


def copies(folder: Path, number: int) -> Path:
    """A new folder of films with UIDs nobody stored yet."""
    batch = folder / f"batch-{number}"
    batch.mkdir()
    for copy in range(COPIES):
        for path in films.drawn():
            dataset = dcmread(path)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = new_uid()
            dataset.save_as(batch / f"{copy}-{path.name}", enforce_file_format=True)
    return batch


def send(port: int, batch: Path) -> None:
    """storescu, Nagle off."""
    command = ["storescu", "-xe", "-aec", "DICOMNODE", "+sd", "127.0.0.1", str(port), str(batch)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"TCP_NODELAY": "1"})


@contextmanager
def storescp(folder: Path) -> Iterator[int]:
    """DCMTK's receiver on a free port, Nagle off."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = ["storescp", "-od", str(folder), "+B", str(port)]
    with subprocess.Popen(command, env=os.environ | {"TCP_NODELAY": "1"}, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("storescp did not start")
