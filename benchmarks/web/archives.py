"""A folder in, a running archive with DICOMweb out: this node without workers, and Orthanc with its plugin."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.peers import NotInstalled
from benchmarks.web.asker import asking
from benchmarks.web.rows import OTHER, OURS
from dicomnode.demo.run import serving

PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
PLUGIN = "libOrthancDicomWeb.so*"
QUIET = '[log]\nlevel = "warning"\n'


@dataclass(frozen=True)
class WebArchive:
    """Where it listens, and what it calls itself."""

    http_port: int
    version: str


Start = Callable[[Path], AbstractContextManager[WebArchive]]


@contextmanager
def dicomnode(folder: Path) -> Iterator[WebArchive]:
    """This node, without workers."""
    folder.mkdir()
    settings = folder / "dicomnode.toml"
    settings.write_text(QUIET)
    more = ("--workers", "0", "--http-port", "0", "--config", str(settings))
    with serving(folder / "root", *more) as ready:
        yield WebArchive(ready["http_port"], OURS)


@contextmanager
def orthanc(folder: Path) -> Iterator[WebArchive]:
    """Orthanc with its DICOMweb plugin alone."""
    program = peers.installed("Orthanc")
    folder.mkdir()
    port = peers.free_port()
    settings = folder / "orthanc.json"
    settings.write_text(json.dumps(_configuration(folder, port)))
    with peers.running(port, folder, program, settings):
        yield WebArchive(port, _version(port))


def _configuration(folder: Path, http_port: int) -> dict[str, Any]:
    return {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [_plugin()],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }


def _plugin() -> str:
    for folder in PLUGINS:
        for found in sorted(Path(folder).glob(PLUGIN)):
            return str(found)
    raise NotInstalled("its DICOMweb plugin is not installed")


def _version(port: int) -> str:
    with asking(port) as asker:
        version = json.loads(asker.get("/system"))["Version"]
        return f"Orthanc {version}, DICOMweb plugin {json.loads(asker.get('/plugins/dicom-web'))['Version']}"


ARCHIVES: dict[str, Start] = {OURS: dicomnode, OTHER: orthanc}
