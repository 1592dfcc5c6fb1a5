"""docs/viewers.md: every configuration in it is one, and its links are what the viewers document."""

import re
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from dicomnode import config
from dicomnode.settings import Config
from dicomnode.web.pages import links

PROJECT = Path(__file__).resolve().parents[4]
BLOCKS = re.findall(r"```toml\n(.*?)```", (PROJECT / "docs" / "viewers.md").read_text(), re.DOTALL)
STUDY, NODE = "1.2.840.99.1", "https://pacs.example/node"
DICOMWEB = f"{NODE}/dicom-web"


def loaded(tmp_path: Path, text: str) -> Config:
    (tmp_path / "node.toml").write_text(text)
    return config.load(tmp_path / "node.toml", {})


def urls(tmp_path: Path) -> dict[str, str]:
    """The links of the page, by viewer, as the document configures them."""
    found = [links.viewers(loaded(tmp_path, block).web, STUDY, NODE) for block in BLOCKS]
    return {viewer.name: viewer.url for viewers in found for viewer in viewers}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_configuration_is_one(tmp_path, number):
    assert loaded(tmp_path, BLOCKS[number]).peers


def test_the_link_to_ohif_names_the_study(tmp_path):
    parts = urlsplit(urls(tmp_path)["OHIF"])
    assert (parts.path, parse_qs(parts.query)) == ("/viewer", {"StudyInstanceUIDs": [STUDY]})


def test_the_link_to_weasis_is_one_of_its_commands(tmp_path):
    """weasis.org, Weasis Web Protocol: the scheme, then commands encoded as a part of a URL."""
    scheme, _, command = urls(tmp_path)["Weasis"].partition("://")
    assert (scheme, unquote(command)) == ("weasis", f'$dicom:rs --url "{DICOMWEB}" -r "studyUID={STUDY}"')
    assert re.fullmatch(r"[\w%.~-]+", command)


def test_the_link_to_slicer_names_the_study_and_the_node(tmp_path):
    """Slicer's DICOM module takes slicer://viewer/ with studyUID and dicomweb_endpoint."""
    parts = urlsplit(urls(tmp_path)["3D Slicer"])
    assert (parts.scheme, parts.netloc, parts.path) == ("slicer", "viewer", "/")
    assert parse_qs(parts.query) == {"studyUID": [STUDY], "dicomweb_endpoint": [DICOMWEB]}
