"""Archives to measure against, each tuned: a folder and a destination of C-MOVE in, a running archive out.

Debian's DCMTK and Orthanc leave Nagle's algorithm on, some 44 ms an object: TCP_NODELAY=1 in their environment turns it
off. All get a maximum PDU of 128 KiB. pynetdicom's application has no such switch; it is measured as it is.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks import objects
from benchmarks.wire import CALLING, MAXIMUM_PDU
from dicomnode.demo.run import serving

START_S, STOP_S = 30.0, 10.0
PYTHON = sys.executable
SINK = "SINK"  # the AE title of the destination of C-MOVE


class NotInstalled(Exception):
    """The archive cannot be measured here; the text is its row."""


@dataclass(frozen=True)
class Archive:
    """A running archive. `studies`: the AE title under which the many studies are kept, `most_studies` of them."""

    port: int
    called: str
    studies: str
    most_studies: int = objects.STUDIES


Start = Callable[[Path, int], AbstractContextManager[Archive]]
T = TypeVar("T")


def fill_all(archives: Mapping[str, T], fill: Callable[[T], None], *foreseen: type[Exception]) -> dict[str, str]:
    """Fill all at once; why one could not be filled, by its name. Raises what is not `foreseen`."""
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(max(len(archives), 1)) as pool:
        filling = {name: pool.submit(fill, archive) for name, archive in archives.items()}
        for name, one in filling.items():
            try:
                one.result()
            except foreseen as error:
                failed[name] = f"not filled: {error}"
    return failed


@contextmanager
def dicomnode(folder: Path, sink: int, receivers: int = 1) -> Iterator[Archive]:
    """This node, without workers; `receivers`: the setting of that name."""
    folder.mkdir(exist_ok=True)
    settings = folder / "dicomnode.toml"
    settings.write_text(
        f"""[log]
level = "warning"

[dimse]
receivers = {receivers}

[peers.sink]
ae_title = "{SINK}"
host = "127.0.0.1"
port = {sink}

[peers.bench]
ae_title = "{CALLING}"
"""
    )
    with serving(folder / "root", "--workers", "0", "--config", str(settings)) as ready:
        yield Archive(ready["port"], "DICOMNODE", "DICOMNODE")


@contextmanager
def orthanc(folder: Path, sink: int) -> Iterator[Archive]:
    """Orthanc without plugins; it answers C-FIND from its database alone."""
    folder.mkdir()
    port, http_port = free_port(), free_port()
    settings = folder / "orthanc.json"
    document = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"sink": [SINK, "127.0.0.1", sink]},
        "DicomScpTimeout": 0,
        "MaximumPduLength": MAXIMUM_PDU,
        "StorageAccessOnFind": "Never",
    }
    settings.write_text(json.dumps(document))
    program = installed("Orthanc")
    with running(port, folder, program, settings):
        yield Archive(port, "ORTHANC", "ORTHANC")


@contextmanager
def dcmqrscp(folder: Path, sink: int) -> Iterator[Archive]:
    """DCMTK's image archive: two storage areas, as one keeps 500 studies at most and deletes the oldest above that."""
    program = installed("dcmqrscp")
    port = free_port()
    for area in ("bench", "studies"):
        (folder / area).mkdir(parents=True)
    settings = folder / "dcmqrscp.cfg"
    settings.write_text(
        f"""NetworkTCPPort = {port}
MaxPDUSize = {MAXIMUM_PDU}
MaxAssociations = 16
HostTable BEGIN
sink = ({SINK}, 127.0.0.1, {sink})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
BENCH {folder / "bench"} RW (500, 65536mb) ANY
STUDIES {folder / "studies"} RW (500, 1024mb) ANY
AETable END
"""
    )
    with running(port, folder, program, "-c", settings):
        yield Archive(port, "BENCH", "STUDIES", 500)


@contextmanager
def qrscp(folder: Path, sink: int) -> Iterator[Archive]:
    """The archive among pynetdicom's applications."""
    folder.mkdir()
    port = free_port()
    settings = folder / "qrscp.ini"
    settings.write_text(
        f"""[DEFAULT]
ae_title: QRSCP
port: {port}
max_pdu: {MAXIMUM_PDU}
acse_timeout: 120
dimse_timeout: 120
network_timeout: 120
bind_address: 127.0.0.1
instance_location: {folder / "instances"}
database_location: {folder / "instances.sqlite"}
log_identifier: False

[{SINK}]
address: 127.0.0.1
port: {sink}
"""
    )
    with running(port, folder, sys.executable, "-m", "pynetdicom", "qrscp", "-q", "-c", settings):
        yield Archive(port, "QRSCP", "QRSCP")


ARCHIVES: dict[str, Start] = {
    "dicomnode": dicomnode,
    "Orthanc": orthanc,
    "dcmqrscp": dcmqrscp,
    "qrscp": qrscp,
}


def installed(name: str) -> str:
    """Where a program is. NotInstalled."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")  # where users' PATH may not go
    if not found:
        raise NotInstalled(f"{name} is not installed")
    return found


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(port: int, folder: Path, *command: str | int | Path) -> Iterator[None]:
    """A program that listens on the port, ended with the context; what it prints goes to `folder`/log."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TCP_NODELAY": "1"},
            start_new_session=True,
        )
    try:
        _listening(port, process)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listening(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen")
