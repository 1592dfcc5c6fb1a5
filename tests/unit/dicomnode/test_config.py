"""Settings: declared once, layered, and wrong ones refused by name."""

import dataclasses
from pathlib import Path

import pytest

from dicomnode import config
from dicomnode.errors import ConfigError
from dicomnode.settings import SERVICES, Config, DimseSettings, PeerSettings


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dicomnode.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_later_layers_win_and_say_so(tmp_path):
    file = write(tmp_path, "[dimse]\nport = 1\nmaximum_pdu = 2\nae_title = 'FILE'\n")
    environment = {"DICOMNODE_DIMSE__MAXIMUM_PDU": "3", "DICOMNODE_DIMSE__AE_TITLE": "ENV", "PATH": "/bin"}
    loaded = config.load(file, environment, {"dimse.ae_title": "FLAG", "dimse.host": None})
    assert (loaded.dimse.port, loaded.dimse.maximum_pdu, loaded.dimse.ae_title) == (1, 3, "FLAG")
    assert [loaded.sources[f"dimse.{key}"] for key in ("port", "maximum_pdu", "ae_title", "host")] == [
        "file",
        "environment",
        "flag",
        "default",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dimse]\nprot = 1\n", "unknown setting dimse.prot; did you mean dimse.port?"),
        ("[dismeh]\nport = 1\n", "unknown section [dismeh]; did you mean dimse?"),
        ("[dimse]\nport = 'x'\n", "dimse.port: expected int"),
        ("[dimse]\nport = true\n", "dimse.port: expected int"),
        ("[dimse]\nport = 1.5\n", "dimse.port: expected int"),
        ("[dimse]\nport = -1\n", "must not be negative"),
        ("[storage]\nduplicates = 'both'\n", "expected one of keep, replace"),
        ("storage = 1\n", "must be a section"),
        ("[dimse\n", "is not TOML"),
    ],
)
def test_wrong_files_are_refused_with_the_reason(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), {})
    assert words in str(caught.value)


def test_unknown_variable_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean DICOMNODE_DIMSE__PORT"):
        config.load(None, {"DICOMNODE_DIMSE__PROT": "1"})


def test_other_variables_of_the_prefix_are_left_alone():
    assert config.load(None, {"DICOMNODE_DATA": "x"}).dimse.port == DimseSettings().port


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path / "none.toml", {})


@pytest.mark.parametrize(("text", "value"), [("true", True), ("No", False), ("1", True), ("off", False)])
def test_booleans_from_the_environment(text, value):
    assert config.load(None, {"DICOMNODE_DIMSE__CHECK_CALLED_AE": text}).dimse.check_called_ae is value


def test_the_commented_file_in_etc_is_the_declarations():
    shipped = Path(__file__).parents[3] / "etc" / "dicomnode.toml"
    assert shipped.read_text(encoding="utf-8") == config.example()


def test_the_commented_file_uncommented_loads_to_the_defaults(tmp_path):
    lines = [
        line[1:] if line.startswith("#") and not line.startswith("# ") else line
        for line in config.example().split("\n")
    ]
    loaded = config.load(write(tmp_path, "\n".join(lines)), {})
    assert dataclasses.replace(loaded, peers=()) == Config()
    assert loaded.peers == (PeerSettings("CT1", "CT1"),)


PEERS = """
[peers.CT1]
ae_title = " CT 1 "
addresses = ["10.0.0.7", "2001:db8::/32"]
services = ["echo", "store"]
[peers.PACS]
ae_title = "PACS"
host = "pacs.example"
port = 11112
tls = true
certificate_name = "pacs.example"
"""


def test_peers_are_read_in_the_order_of_the_file(tmp_path):
    ct, pacs = config.load(write(tmp_path, PEERS), {}).peers
    assert ct == PeerSettings("CT1", "CT 1", addresses=("10.0.0.7", "2001:db8::/32"), services=("echo", "store"))
    assert (pacs.host, pacs.port, pacs.tls, pacs.certificate_name) == ("pacs.example", 11112, True, "pacs.example")
    assert pacs.services == SERVICES


def test_a_peer_is_found_by_its_name_or_the_nearest_is_named(tmp_path):
    loaded = config.load(write(tmp_path, PEERS), {})
    assert loaded.peer("PACS").ae_title == "PACS"
    with pytest.raises(ConfigError, match="no peer PAC is configured; did you mean PACS"):
        loaded.peer("PAC")


def peer_table(**keys):
    return "[peers.X]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (peer_table(ae_title="'A'", hots="'x'"), "unknown setting peers.X.hots; did you mean host?"),
        (peer_table(host="'x'"), "peers.X: ae_title is missing"),
        (peer_table(ae_title="''"), "peers.X.ae_title: must not be empty"),
        (peer_table(ae_title="'   '"), "peers.X.ae_title: must not be empty"),
        (peer_table(ae_title="'SEVENTEEN_LETTERS'"), "peers.X.ae_title: at most 16 characters"),
        (peer_table(ae_title="'A\\B'"), "peers.X.ae_title: must be printable ASCII without backslash"),
        (peer_table(ae_title='"A\\nB"'), "peers.X.ae_title: must be printable ASCII without backslash"),
        (peer_table(ae_title="'Ä'"), "peers.X.ae_title: must be printable ASCII without backslash"),
        (peer_table(ae_title="7"), "peers.X.ae_title: expected str"),
        (peer_table(ae_title="'A'", port="0"), "peers.X.port: must not be 0"),
        (peer_table(ae_title="'A'", port="65536"), "peers.X.port: at most 65535"),
        (peer_table(ae_title="'A'", tls="'maybe'"), "peers.X.tls: expected bool"),
        (
            peer_table(ae_title="'A'", services="['echo', 'stor']"),
            "peers.X.services: expected one of echo, store, find",
        ),
        (peer_table(ae_title="'A'", services="[1]"), "peers.X.services: expected tuple"),
        (peer_table(ae_title="'A'", addresses="['10.0.0.300']"), "does not appear to be an IPv4 or IPv6 network"),
        (peer_table(ae_title="'A'", addresses="['10.0.0.7/24']"), "10.0.0.7/24 has host bits set"),
        (peer_table(ae_title="'A'", certificate_name="'a'"), "peers.X: certificate_name needs tls = true"),
        ("[peers]\nX = 1\n", "peers are tables, [peers.NAME] for each"),
        ("peers = 1\n", "peers are tables, [peers.NAME] for each"),
        ("[peer.X]\nae_title = 'A'\n", "unknown section [peer]; did you mean peers?"),
        (peer_table(ae_title="'A'") + "[peers.Y]\nae_title = 'A '\n", "AE title A from any address is peers.X already"),
        (
            peer_table(ae_title="'A'", addresses="['10.0.0.7', '10.0.0.8']")
            + "[peers.Y]\nae_title = 'A'\naddresses = ['10.0.0.7/32']\n",
            "peers.Y: AE title A from 10.0.0.7/32 is peers.X already",
        ),
        ("[tls]\ncertificate = 'c.pem'\n", "tls.certificate and tls.key need each other"),
        ("[dimse]\nplain = false\n", "dimse.plain = false needs tls.certificate and tls.key"),
        (
            "[tls]\ncertificate = 'c'\nkey = 'k'\n" + peer_table(ae_title="'A'", tls="true", certificate_name="'a'"),
            "certificate_name of a peer needs tls.authorities",
        ),
        ("[dimse]\nunknown_peers = 'ask'\n", "expected one of auto, accept, refuse"),
        ("[dimse]\nae_title = 'A\\B'\n", "dimse.ae_title: must be printable ASCII"),
        ("[dimse]\ncalled_ae_titles = ['']\n", "dimse.called_ae_titles: '' must not be empty"),
    ],
)
def test_wrong_peers_and_ports_are_refused_with_one_line(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), {})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_ae_title_from_other_addresses_is_another_peer(tmp_path):
    text = peer_table(ae_title="'A'") + "[peers.Y]\nae_title = 'A'\naddresses = ['10.0.0.7']\n"
    assert [peer.name for peer in config.load(write(tmp_path, text), {}).peers] == ["X", "Y"]


def test_several_values_from_the_environment_are_separated_by_commas():
    loaded = config.load(None, {"DICOMNODE_DIMSE__CALLED_AE_TITLES": "REGIONMIR, OTHER"})
    assert loaded.dimse.called_ae_titles == ("REGIONMIR", "OTHER")


def peer_with(token: str, name: str = "WEB") -> str:
    return f"[peers.{name}]\nae_title = '{name}'\ntoken = '{token}'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (peer_with("short"), "at least 16 characters"),
        (peer_with("white space in a token"), "letters, digits"),
        (peer_with("a-token-of-two-peers") + peer_with("a-token-of-two-peers", "B"), "token is that of peers.WEB"),
    ],
)
def test_tokens_that_would_be_guessed_or_mixed_up_are_refused_and_never_quoted(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words) as refused:
        config.load(write(tmp_path, text), {})
    assert "token-of" not in str(refused.value)
    assert "short" not in str(refused.value)


def test_a_token_is_not_in_a_representation(tmp_path):
    loaded = config.load(write(tmp_path, peer_with("a-token-that-is-secret")), {})
    assert loaded.peers[0].token == "a-token-that-is-secret"
    assert "secret" not in repr(loaded)


@pytest.mark.parametrize("url", ["pacs.example", "ftp://pacs.example", "https://", "https://pacs.example/?a=b"])
def test_a_public_url_is_one(tmp_path, url):
    with pytest.raises(ConfigError, match="public_url"):
        config.load(write(tmp_path, f"[web]\npublic_url = '{url}'\n"), {})
