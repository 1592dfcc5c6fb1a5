"""One node that knows its peers, and the peers: DCMTK's programs, Orthanc, dcmjs-dimse, dicomweb-client."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import nodes
from tests.conftest import _in_ci, _missing
from tests.integration.interop import objects, orthanc, programs
from tests.integration.interop.javascript import WebClient
from tests.integration.interop.orthanc import Orthanc
from tests.integration.interop.third_stack import Dcmjs
from tests.nodes import RunningNode

DCMJS = Path(__file__).parent / "dcmjs"
# AE titles that the node is called by or calls, each on a port of its own.
AE_TITLES = (
    *("ECHOSCU", "STORESCU", "DCMSEND", "FINDSCU", "GETSCU", "TERMSCU", "DICOMNODE_SCU"),
    *("MOVESCU", "STORESCP", orthanc.AE_TITLE, "DCMJS"),
)
TOKEN = "interop-token-0123456789"


@pytest.fixture(scope="session")
def ports() -> dict[str, int]:
    """Where each peer listens, or would."""
    return {ae_title: programs.free_port() for ae_title in AE_TITLES}


@pytest.fixture(scope="session")
def node(ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node without workers, with every peer in its configuration."""
    folder = tmp_path_factory.mktemp("interop")
    tables = [
        f'[peers.{name.lower()}]\nae_title = "{name}"\nhost = "127.0.0.1"\nport = {port}\n'
        for name, port in ports.items()
    ]
    tables.append(f'[peers.web]\nae_title = "WEB"\ntoken = "{TOKEN}"\n')
    settings = folder / "dicomnode.toml"
    settings.write_text("\n".join(tables))
    arguments = ("--workers", "0", "--http-port", "0", "--config", str(settings))
    with nodes.running_node(folder / "root", *arguments) as running:
        yield running


@pytest.fixture(scope="session")
def sent(node: RunningNode, dcmtk: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The five objects, stored in the node by storescu."""
    paths = objects.written(objects.PLACES, tmp_path_factory.mktemp("objects"))
    programs.run(dcmtk / "storescu", "-aec", "DICOMNODE", "127.0.0.1", node.port, *paths)
    return paths


@pytest.fixture(scope="session")
def pacs(node: RunningNode, ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Orthanc, for the whole tier."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
    if not program:
        _missing("Orthanc is not installed", fatal=_in_ci())
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc.running(str(program), folder, ports[orthanc.AE_TITLE], node, TOKEN) as running:
        yield running


@pytest.fixture
def empty(pacs: Orthanc) -> Orthanc:
    """Orthanc with nothing in it."""
    pacs.empty()
    return pacs


@pytest.fixture
def web_pacs(empty: Orthanc) -> Orthanc:
    """The same, with its DICOMweb plugin."""
    if not orthanc.web_plugin():
        _missing("Orthanc's DICOMweb plugin is not installed", fatal=_in_ci())
    return empty


@pytest.fixture
def web_client(node: RunningNode, tmp_path: Path) -> WebClient:
    """The client on dicomweb-client."""
    folder = tmp_path / "parts"
    folder.mkdir()
    return WebClient(f"{node.url}/dicom-web", TOKEN, folder)


@pytest.fixture(scope="session")
def dcmjs(node: RunningNode, ports: dict[str, int]) -> Dcmjs:
    """The client on dcmjs-dimse."""
    program = shutil.which("node")
    if not program or not (DCMJS / "node_modules" / "dcmjs-dimse").is_dir():
        _missing("dcmjs-dimse is not installed: npm ci in tests/integration/interop/dcmjs", fatal=_in_ci())
    return Dcmjs(str(program), DCMJS / "client.js", node.port, ports["DCMJS"])
