"""The client on dcmjs-dimse, a third DICOM stack: a command in, its JSON answer out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.interop import programs


@dataclass(frozen=True)
class Dcmjs:
    """`client.js` as the AE DCMJS; `listens` is where it takes what is moved to it."""

    program: str
    script: Path
    port: int
    listens: int

    def ask(self, command: str, **arguments: Any) -> Any:
        """One command against the node."""
        request = {"command": command, "port": self.port, "listens": self.listens, **arguments}
        done = programs.run(self.program, self.script, json.dumps(request, default=str))
        return json.loads(done.stdout.splitlines()[-1])
