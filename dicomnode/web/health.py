"""Checks in, whether the node lives and is ready out: for who starts it, watches it, or sends to it."""

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

Check = Callable[[], bool]


class Health:
    """Answers /health/live and /health/ready; neither needs a token, neither tells more than yes and no."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks

    def live(self, _request: Request) -> Response:
        """The port answers."""
        return JSONResponse({"live": True})

    def ready(self, _request: Request) -> Response:
        """Every check passes, or 503 and which do not."""
        found = {name: _passes(check) for name, check in self._checks.items()}
        return JSONResponse({"ready": all(found.values()), "checks": found}, 200 if all(found.values()) else 503)


def _passes(check: Check) -> bool:
    try:
        return check()
    except Exception:  # noqa: BLE001 - a check that fails does not pass: what it found is in its own part's log
        return False
