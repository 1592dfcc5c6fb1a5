"""Start-up is cheap: the receiver, the statements and --help load no model library."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "matplotlib", "highdicom", "scipy", "ray")


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


@pytest.mark.parametrize(
    "code",
    [
        "import dicomnode.node",
        "import dicomnode.dimse.receiver",
        "import dicomnode.conformance",
        "import dicomnode.reindex",
        "from dicomnode.cli.main import parser; parser()",
        "import encoder.anatomy, encoder.checkpoint, encoder.pipeline",
        "import storage.store",
    ],
)
def test_no_model_library_is_loaded(code):
    assert loaded_by(code) == set()
