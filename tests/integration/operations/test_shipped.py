"""What ships to run a node: units that systemd takes, compose files that set what there is, a rotation without loss.

No container is built here: there is no Docker daemon where the tests run.
"""

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicomnode import config
from dicomnode.audit.sinks import FileSink
from dicomnode.cli.main import parser
from dicomnode.settings import Config
from tests import nodes
from tests.conftest import PROJECT, missing_program

ETC = PROJECT / "etc"
UNITS = sorted((ETC / "systemd").glob("dicomnode*"))
COMPOSE = sorted((ETC / "docker").glob("compose*.yaml"))


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if not found:
        missing_program(f"{name} is not installed")
    return str(found)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with programs and accounts that there are here."""
    made = []
    for unit in UNITS:
        made.append(tmp_path / unit.name)
        text = unit.read_text().replace("/opt/dicomnode/.venv/bin/dicomnode", f"{sys.executable} -m dicomnode")
        made[-1].write_text(re.sub("^(User|Group)=.*", r"\1=root", text, flags=re.MULTILINE))
    return made


def test_systemd_takes_the_units(units: list[Path]) -> None:
    done = subprocess.run(
        [program("systemd-analyze"), "verify", *map(str, units)], capture_output=True, text=True, check=False
    )
    about_ours = [line for line in done.stderr.splitlines() if "dicomnode" in line]
    assert (done.returncode, about_ours) == (0, [])


def test_the_unit_leaves_little_exposed(units: list[Path]) -> None:
    unit = next(path for path in units if path.name == "dicomnode.service")
    done = subprocess.run(
        [program("systemd-analyze"), "security", "--offline=true", "--threshold=30", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_run_commands_that_there_are(unit: Path) -> None:
    for line in re.findall(r"^ExecStart=\S+/dicomnode (.*)$", unit.read_text(), flags=re.MULTILINE):
        assert parser().parse_args(line.split()).run


def test_systemd_is_told_when_the_node_is_ready_reloads_and_stops(tmp_path: Path) -> None:
    where = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(where))
        systemd.settimeout(60)
        with nodes.running_node(tmp_path / "root", "--workers", "0", environment={"NOTIFY_SOCKET": str(where)}) as node:
            assert systemd.recv(1024) == b"READY=1"
            node.process.send_signal(signal.SIGHUP)
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", systemd.recv(1024))
            assert systemd.recv(1024) == b"READY=1"
            node.process.send_signal(signal.SIGTERM)
            assert systemd.recv(1024) == b"STOPPING=1"
            assert node.process.wait(60) == 0


# --- containers ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=COMPOSE, ids=lambda path: path.name)
def compose(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(yaml.safe_load(request.param.read_text()))


def settings_of(environment: dict[str, str]) -> Config:
    """As the node would read them; compose's own variables at their defaults."""
    plain = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for name, value in environment.items()}
    return config.load(None, {name: value for name, value in plain.items() if name.startswith("DICOMNODE_")}, {})


def test_compose_files_set_what_there_is(compose: dict[str, Any]) -> None:
    node = compose["services"]["dicomnode"]
    assert settings_of(node["environment"]).audit.to == ("audit.xml",)
    default = config.load(None, {}, {})
    assert f"{default.dimse.port}:{default.dimse.port}" in node["ports"]
    assert f"127.0.0.1:{default.web.port}:{default.web.port}" in node["ports"]


def test_compose_files_name_what_they_declare(compose: dict[str, Any]) -> None:
    assert set(compose) <= {"services", "volumes", "secrets"}
    for service in compose["services"].values():
        named = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert named <= set(compose["volumes"])
        assert set(service.get("secrets", ())) <= set(compose.get("secrets", {}))
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        if "build" in service:
            context = (ETC / "docker" / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]).is_file()


def test_the_database_s_url_is_one_that_the_node_takes() -> None:
    document = yaml.safe_load((ETC / "docker" / "compose.postgresql.yaml").read_text())
    line = document["services"]["dicomnode"]["entrypoint"][-1]
    variable, url = re.findall(r'(\w+)="(.*)" exec dicomnode serve', line.replace("$$", "$"))[0]
    with_password = re.sub(r"\$\(cat .*?\)", "secret", url)
    assert config.load(None, {variable: with_password}, {}).storage.url.startswith(
        "postgresql+psycopg://dicomnode:secret@"
    )
    assert "/run/secrets/database-password" in url


def test_the_image_is_made_of_what_there_is() -> None:
    text = (ETC / "docker" / "Dockerfile").read_text()
    sources = [
        word for line in re.findall(r"^COPY (?!--)(.*)$", text, flags=re.MULTILINE) for word in line.split()[:-1]
    ]
    assert len(sources) >= 7
    assert [name for name in sources if not (PROJECT / name).exists()] == []
    ignored = (ETC / "docker" / "Dockerfile.dockerignore").read_text()
    assert [name for name in sources if f"!{name}\n" not in ignored] == []
    given = dict(re.findall(r"\b(DICOMNODE_\w+)=(\S+)", text))
    loaded = settings_of(given)
    assert (loaded.web.enabled, loaded.log.format, loaded.storage.root) == (True, "json", "/var/lib/dicomnode")
    assert parser().parse_args(["serve"]).run
    assert "/health/ready" in text


# --- rotation --------------------------------------------------------------------------------------------------------


def test_logrotate_takes_the_file_away_and_no_message_is_lost(tmp_path: Path) -> None:
    rotate, audit = program("logrotate"), tmp_path / "audit.xml"
    text = (ETC / "logrotate" / "dicomnode").read_text().replace("/var/lib/dicomnode/audit.xml", str(audit))
    settings = tmp_path / "logrotate.conf"
    settings.write_text(text.replace("su dicomnode dicomnode", "su root root"))
    settings.chmod(0o644)
    tmp_path.chmod(0o755)
    sink = FileSink(audit)
    sink.write("<before/>", 0.0)
    command = [rotate, "--force", "--state", str(tmp_path / "state"), str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    sink.write("<after/>", 0.0)
    sink.close()
    (moved,) = tmp_path.glob("audit.xml-*")
    assert (moved.read_text(), audit.read_text()) == ("<before/>\n", "<after/>\n")
    assert audit.stat().st_mode & 0o777 == 0o600
