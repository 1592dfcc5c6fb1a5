"""Orthanc as the PACS on the other end: a configuration written, a process started, and its REST API."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from dicomnode.dimse.client import Peer
from tests.integration.interop import programs
from tests.nodes import RunningNode

AE_TITLE = "ORTHANC"
PLUGINS = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"))
REST_S = 60.0
READY_S = 30.0


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc that knows the node under the name `node`."""

    dicom_port: int
    http_port: int

    @property
    def peer(self) -> Peer:
        return Peer("127.0.0.1", self.dicom_port, called=AE_TITLE)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.dicom_port}"

    def get(self, path: str) -> Any:
        """The JSON document at a path."""
        return json.loads(self._asked("GET", path))

    def post(self, path: str, document: Any) -> Any:
        """What is answered to a JSON document."""
        return json.loads(self._asked("POST", path, json.dumps(document).encode()))

    def upload(self, path: Path) -> None:
        """Put a DICOM file into it by REST."""
        self._asked("POST", "/instances", path.read_bytes())

    def instances(self) -> list[str]:
        """Orthanc's own identifier of each instance it holds."""
        return list(self.get("/instances"))

    def saved(self, folder: Path) -> list[Path]:
        """Every instance it holds as a file of its own."""
        paths = []
        for name in self.instances():
            path = folder / f"{name}.dcm"
            path.write_bytes(self._asked("GET", f"/instances/{name}/file"))
            paths.append(path)
        return paths

    def empty(self) -> None:
        """Delete all that it holds."""
        for patient in self.get("/patients"):
            self._asked("DELETE", f"/patients/{patient}")

    def _asked(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = Request(f"http://127.0.0.1:{self.http_port}{path}", data=body, method=method)
        with build_opener(ProxyHandler({})).open(request, timeout=REST_S) as answer:
            return bytes(answer.read())


def web_plugin() -> Path | None:
    """The DICOMweb plugin, where it is installed."""
    return next((path for folder in PLUGINS for path in folder.glob("libOrthancDicomWeb.so*")), None)


def configuration(folder: Path, dicom_port: int, http_port: int, node: RunningNode, token: str) -> dict[str, Any]:
    """What is not Orthanc's default. No plugins but that of DICOMweb, no callers from elsewhere."""
    plugin = web_plugin()
    node_web = {"Url": f"{node.url}/dicom-web/", "HttpHeaders": {"Authorization": f"Bearer {token}"}}
    return {
        "Name": "interop",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(plugin)] if plugin else [],
        "DicomWeb": {"Enable": True, "Servers": {"node": node_web}},
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": dicom_port,
        "DicomAet": AE_TITLE,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowFind": True,
        "DicomModalities": {"node": {"AET": "DICOMNODE", "Host": "127.0.0.1", "Port": node.port}},
    }


@contextmanager
def running(program: str, folder: Path, dicom_port: int, node: RunningNode, token: str) -> Iterator[Orthanc]:
    """Orthanc with an empty archive under `folder`, answering."""
    orthanc = Orthanc(dicom_port, programs.free_port())
    settings = folder / "orthanc.json"
    settings.write_text(json.dumps(configuration(folder, dicom_port, orthanc.http_port, node, token)))
    with programs.serving(orthanc.dicom_port, folder / "orthanc.log", program, settings):
        _wait(orthanc)
        yield orthanc


def _wait(orthanc: Orthanc) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            orthanc.get("/system")
            return
        except (URLError, HTTPError, ConnectionError):
            assert time.monotonic() < deadline, "Orthanc does not answer"
            time.sleep(0.05)
