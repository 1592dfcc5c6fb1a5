"""What exists is documented: commands, settings, relative links; and no document names a machine."""

import re
from pathlib import Path

import pytest

from dicomnode.cli.main import parser
from dicomnode.settings import DECLARED

PROJECT = Path(__file__).parents[3]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("encoder/weights/*.md")])


def commands() -> list[str]:
    (choices,) = [action.choices for action in parser()._actions if isinstance(action.choices, dict)]
    return list(choices)


@pytest.mark.parametrize("command", commands())
def test_every_command_is_in_the_readme(command):
    assert f"`{command}`" in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_every_setting_has_an_explanation_and_a_line_in_etc():
    shipped = (PROJECT / "etc" / "dicomnode.toml").read_text(encoding="utf-8")
    for setting in DECLARED.values():
        assert setting.about
        assert f"#{setting.key} = " in shipped


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_named_in_documents_exist(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:docs|etc|encoder|storage|dicomnode|benchmarks)/[\w./-]+\.\w+)`", text):
        assert (PROJECT / name).exists(), name


def test_decisions_are_numbered_without_gaps_and_say_their_status():
    records = sorted((PROJECT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert all(word in text for word in ("Status: ", "## Context", "## Decision", "## Consequences")), path.name
