"""Scripts on what viewers are made of (`viewers/`): a request in, the JSON answer out."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import missing_program
from tests.integration.interop import programs

FOLDER = Path(__file__).parent / "viewers"


def asked(script: str, **request: Any) -> Any:
    """What a script answers; skips, or fails in CI, where its packages are not installed."""
    program = shutil.which("node")
    if not program or not (FOLDER / "node_modules" / "dicomweb-client").is_dir():
        missing_program("what viewers are made of is not installed: npm ci in tests/integration/interop/viewers")
    done = programs.run(str(program), FOLDER / script, json.dumps(request, default=str))
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class WebClient:
    """The JavaScript dicomweb-client at a node, with a token."""

    url: str  # of DICOMweb
    token: str
    folder: Path  # where the parts of an answer go

    def call(self, method: str, files: list[Path] | None = None, **options: Any) -> Any:
        """What a method resolves to: JSON, or (`file`, `type`) of each part."""
        answer = self.outcome(method, files, **options)
        assert "answer" in answer, answer
        return answer["answer"]

    def outcome(self, method: str, files: list[Path] | None = None, **options: Any) -> dict[str, Any]:
        """`answer`, or the `status` that it fails with."""
        request = {"url": self.url, "token": self.token, "folder": self.folder, "files": files, "options": options}
        return dict(asked("dicomweb.js", method=method, **request))

    def bodies(self, method: str, **options: Any) -> list[bytes]:
        """The parts of a binary answer."""
        parts = self.call(method, **options)
        return [Path(part["file"]).read_bytes() for part in (parts if isinstance(parts, list) else [parts])]
