"""The program's face: exit codes, one line of complaint, JSON where a script wants it."""

import json

import pytest

from dicomnode.cli import main


def run(capsys, *arguments):
    try:
        code = main.run(arguments)
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("serve", "demo", "send", "echo", "query", "status", "wait", "reindex", "retry", "delete", "config"):
        assert f"    {command} " in out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("echo",),
        ("echo", "nowhere"),
        ("echo", "host:99999"),
        ("query", "127.0.0.1:1"),
        ("query", "127.0.0.1:1", "--image", "1.2", "--box", "1,2,3"),
        ("query", "127.0.0.1:1", "--image", "1.2", "--box", "1,2,3,4", "--anatomy", "left knee"),
        ("query", "127.0.0.1:1", "--image", "1.2", "--box", "1,2,3,4", "--match", "Colour=red"),
    ],
)
def test_wrong_usage_is_exit_code_2(capsys, arguments):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err


def test_a_wrong_setting_is_exit_code_2_and_one_line(capsys, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[dimse]\nprot = 1\n")
    code, _, err = run(capsys, "config", "--config", str(file))
    assert (code, err) == (2, "dicomnode: unknown setting dimse.prot; did you mean dimse.port?\n")


@pytest.mark.parametrize("command", ["status", "wait", "retry", "reindex", "delete --study 1.2", "verify", "backup b"])
def test_a_mistyped_root_is_an_error_and_no_new_archive(capsys, tmp_path, command):
    root = tmp_path / "nowhere"
    code, _, err = run(capsys, *command.split(), "--root", str(root))
    assert (code, err) == (1, f"dicomnode: no archive at {root}\n")
    assert not root.exists()


def test_config_tells_values_sources_and_masks_secrets(capsys, monkeypatch):
    monkeypatch.setenv("DICOMNODE_STORAGE__URL", "postgresql://user:secret@host/db")
    code, out, _ = run(capsys, "config", "--json", "--root", "here")
    shown = json.loads(out)
    assert code == 0
    assert shown["storage.root"] == {"value": "here", "source": "flag"}
    assert shown["storage.url"] == {"value": "***", "source": "environment"}
    assert shown["dimse.port"] == {"value": 11112, "source": "default"}


def test_config_shows_the_peers(capsys, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[peers.CT1]\nae_title = "CT1"\nservices = ["echo", "store"]\n')
    code, out, _ = run(capsys, "config", "--json", "--config", str(file))
    shown = json.loads(out)
    assert code == 0
    assert shown["peers.CT1.services"] == {"value": ["echo", "store"], "source": "file"}
    assert shown["peers.CT1.port"] == {"value": 104, "source": "default"}
    code, out, _ = run(capsys, "config", "--config", str(file))
    assert code == 0
    assert "peers.CT1.ae_title" in out
    assert "echo, store" in out


def test_a_name_that_is_no_configured_peer_says_what_was_expected(capsys):
    code, _, err = run(capsys, "echo", "nowhere")
    assert (code, err) == (2, "dicomnode: expected HOST:PORT or the name of a peer: no peer nowhere is configured\n")


def test_nobody_listening_is_exit_code_1_and_one_line(capsys):
    code, _, err = run(capsys, "echo", "127.0.0.1:1")
    assert code == 1
    assert err == "dicomnode: DICOMNODE at 127.0.0.1:1 does not answer\n"


def test_conformance_lists_what_is_negotiated(capsys):
    code, out, _ = run(capsys, "conformance", "--json")
    services = {service["name"]: service for service in json.loads(out)["services"]}
    assert code == 0
    assert "1.2.840.10008.5.1.4.1.1.1.1" in services["Storage"]["sop_classes"]
    assert services["Query"]["transfer_syntaxes"][0] == "1.2.840.10008.1.2.1"
