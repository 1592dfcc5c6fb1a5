"""The unpacked OHIF and its configuration in, a web server on this machine out: `python -m tests.ohif.serve`.

For tests, and to look at: a web server of your own serves OHIF where it is used (docs/viewers.md).
"""

import argparse
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.ohif import fetch

CONFIG = Path(__file__).resolve().parents[2] / "etc" / "ohif" / "app-config.js"


class Handler(SimpleHTTPRequestHandler):
    """Files of OHIF, its configuration from elsewhere, and its page for every path that is no file: it has routes."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, config: Path) -> None:
        self._config = config
        super().__init__(*arguments, directory=str(fetch.PAGES))

    def translate_path(self, path: str) -> str:
        if urlsplit(path).path == "/app-config.js":
            return str(self._config)
        found = super().translate_path(path)
        return found if Path(found).is_file() else str(fetch.PAGES / "index.html")

    def end_headers(self) -> None:
        """A page is isolated by these, as OHIF wants it for volumes; then nothing without CORS or CORP is loaded."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Nothing: a page is a hundred files."""


def main() -> None:
    parser = argparse.ArgumentParser(description="serve OHIF on this machine")
    parser.add_argument("--port", type=int, default=3000, help="0 takes a free one")
    parser.add_argument("--config", type=Path, default=CONFIG, help="its app-config.js, read at each visit")
    arguments = parser.parse_args()
    if not fetch.is_there():
        parser.exit(1, "OHIF is not there: make peers\n")
    with ThreadingHTTPServer(("127.0.0.1", arguments.port), partial(Handler, config=arguments.config)) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
