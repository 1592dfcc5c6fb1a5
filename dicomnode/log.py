"""Log records to standard error, as text or JSON lines. No identifier, name or pixel is ever passed to a logger."""

import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

LIBRARIES = ("pynetdicom", "pydicom", "alembic", "sqlalchemy", "PIL", "matplotlib", "monai", "highdicom")


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(level: str, style: str) -> None:
    """Send this project's records to standard error; of libraries only what is serious: their texts quote data."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if style == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Counting(logging.Handler):
    """Tells the level of each record, and nothing else of it: how often something went wrong."""

    def __init__(self, counted: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._counted = counted

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        self._counted(record.levelname.lower())


def frames(error: BaseException) -> str:
    """Where an unforeseen error came from: its type and its frames. Not its text, which may quote a peer's values."""
    calls = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at " + " < ".join(
        f"{Path(call.filename).stem}:{call.lineno}" for call in calls[::-1]
    )


def printable(text: object) -> str:
    """A peer's words for a log line or an Error Comment: printable ASCII on one line, all else as question marks."""
    return "".join(char if 32 <= ord(char) < 127 and char != "\\" else "?" for char in str(text))
