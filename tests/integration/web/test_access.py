"""Tokens, addresses and permissions on the HTTP port: the peers table as for DICOM; pages of other origins; TLS."""

from pathlib import Path

import httpx
import pytest

from tests import nodes
from tests.integration.web.test_store import related

TOKENS = {name: f"{name.lower()}-token-0123456789" for name in ("ALL", "SEEKER", "SENDER", "FAR", "SECURE")}
CONFIG = f"""
[web]
cors_origins = ["https://ohif.example"]
[peers.ALL]
ae_title = "ALL"
token = "{TOKENS["ALL"]}"
[peers.SEEKER]
ae_title = "SEEKER"
token = "{TOKENS["SEEKER"]}"
services = ["find", "echo"]
[peers.SENDER]
ae_title = "SENDER"
token = "{TOKENS["SENDER"]}"
services = ["store"]
[peers.FAR]
ae_title = "FAR"
token = "{TOKENS["FAR"]}"
addresses = ["10.0.0.0/8"]
[peers.SECURE]
ae_title = "SECURE"
token = "{TOKENS["SECURE"]}"
tls = true
"""
ASKED = {
    "find": ("GET", "/dicom-web/studies"),
    "get": ("GET", "/dicom-web/studies/1.2.3"),
    "store": ("POST", "/dicom-web/studies"),
    "query": ("POST", "/similar"),
    "echo": ("GET", "/metrics"),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "node.toml").write_text(CONFIG)
    with nodes.running_node(
        folder / "root", "--workers", "0", "--http-port", "0", "--config", str(folder / "node.toml")
    ) as node:
        yield node


def asked(node, service: str, token: str = "", **headers: str) -> httpx.Response:
    method, path = ASKED[service]
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    content = related(b"x") if service == "store" else None
    return httpx.request(method, node.url + path, headers=authorization | headers, content=content)


@pytest.mark.parametrize("service", ASKED)
def test_without_a_token_nothing_is_told(guarded, service):
    answer = asked(guarded, service)
    assert (answer.status_code, answer.json()["title"]) == (401, "Unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("peer", "permitted"),
    [("ALL", set(ASKED)), ("SEEKER", {"find", "echo"}), ("SENDER", {"store"}), ("FAR", set()), ("SECURE", set())],
)
def test_a_token_opens_what_its_peer_is_permitted(guarded, peer, permitted):
    statuses = {service: asked(guarded, service, TOKENS[peer]).status_code for service in ASKED}
    assert {service for service, status in statuses.items() if status != 403} == permitted
    assert 401 not in statuses.values()


@pytest.mark.parametrize("header", ["Bearer wrong-token-0123456789", "Basic QWxhZGRpbg==", "Bearer", "Bearer \u00fc"])
def test_other_tokens_open_nothing(guarded, header):
    answer = httpx.get(guarded.url + "/dicom-web/studies", headers=[(b"authorization", header.encode("latin-1"))])
    assert answer.status_code == 401


def test_refusals_are_in_the_log_without_the_token(guarded):
    asked(guarded, "get", TOKENS["SEEKER"])
    asked(guarded, "get", TOKENS["FAR"])
    assert "HTTP request of SEEKER refused: get not permitted" in guarded.log_text
    assert "address is none of peers.FAR" in guarded.log_text
    assert not [token for token in TOKENS.values() if token in guarded.log_text]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/openapi.json", "/docs"])
def test_what_holds_nothing_of_patients_is_open(guarded, path):
    assert httpx.get(guarded.url + path).status_code in {200, 503}


def test_pages_of_configured_origins_may_ask(guarded):
    token = {"Authorization": f"Bearer {TOKENS['SEEKER']}"}
    ours = httpx.get(guarded.url + "/dicom-web/studies", headers=token | {"Origin": "https://ohif.example"})
    assert ours.headers["access-control-allow-origin"] == "https://ohif.example"
    other = httpx.get(guarded.url + "/dicom-web/studies", headers=token | {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    preflight = {
        "Origin": "https://ohif.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    assert httpx.options(guarded.url + "/dicom-web/studies", headers=preflight).status_code == 200


def test_addresses_open_without_a_token_where_the_table_says_so(tmp_path: Path):
    (tmp_path / "node.toml").write_text(
        '[peers.NEAR]\nae_title = "NEAR"\naddresses = ["127.0.0.0/8"]\nservices = ["find"]\n'
        '[peers.WIDE]\nae_title = "WIDE"\naddresses = ["0.0.0.0/0"]\nservices = ["get"]\n'
    )
    arguments = ("--workers", "0", "--http-port", "0", "--config", str(tmp_path / "node.toml"))
    with nodes.running_node(tmp_path / "root", *arguments) as node:
        assert asked(node, "find").status_code == 200
        assert asked(node, "get").status_code == 403


def test_tokens_are_not_shown(tmp_path: Path):
    (tmp_path / "node.toml").write_text(CONFIG)
    shown = nodes.dicomnode("config", "--config", tmp_path / "node.toml", "--json").stdout
    assert '"***"' in shown
    assert not [token for token in TOKENS.values() if token in shown]
