"""Settings: declared once, layered, and wrong ones refused by name."""

from pathlib import Path

import pytest

from dicomnode import config
from dicomnode.errors import ConfigError


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
    assert config.load(None, {"DICOMNODE_DATA": "x"}).dimse.port == config.DimseSettings().port


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
    assert config.load(write(tmp_path, "\n".join(lines)), {}) == config.Config()
