"""Transcoding as a service: a stored file and a transfer syntax in, its data set in that syntax as a file out.

`TranscoderProcess` is the node's side; the child runs as `python -m dicomnode.workers.transcoder FD`. It is started
when first needed. A codec that crashes, hangs or wants too much memory takes one object with it, and no association.
"""

import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomnode import log
from dicomnode.errors import DecodeError, DicomNodeError
from dicomnode.pixels import transcode
from dicomnode.pixels.eligibility import DecodeLimits
from dicomnode.quiet import quiet_libraries
from dicomnode.settings import LogSettings
from dicomnode.workers.asked import AskedChild, NoAnswer, serve
from dicomnode.workers.child import Child, lifeline

logger = logging.getLogger(__name__)
MODULE: Final = "dicomnode.workers.transcoder"
TIMEOUT_S: Final = 60.0  # for one object; a peer that waits for it may have given up by then
MEMORY: Final = 4 << 30  # bytes of address space: a file and its decoded pixels, twice, and the libraries


@dataclass(frozen=True)
class TranscoderSettings:
    """What the child is told when it starts."""

    limits: DecodeLimits
    log: LogSettings


@dataclass(frozen=True)
class TranscodeRequest:
    """Source: a Part 10 file. Target: written over, the data set alone."""

    source: Path
    target: Path
    transfer_syntax_uid: str


class TranscoderProcess:
    """Asks the child, one object at a time; a child that died or hangs is replaced and the object fails."""

    def __init__(
        self, settings: TranscoderSettings, timeout_s: float = TIMEOUT_S, start: Callable[..., Child] = Child
    ) -> None:
        self._child = AskedChild(MODULE, settings, timeout_s, start)

    def transcode(self, source: Path, target: Path, transfer_syntax_uid: str) -> int:
        """The length of the data set that was written to `target`. Raises DecodeError, NotReady while stopping."""
        try:
            reply = self._child.ask(TranscodeRequest(source, target, transfer_syntax_uid))
        except NoAnswer as error:
            raise DecodeError("not transcoded in time" if error.hung else "the transcoder died of it") from error
        if isinstance(reply, int):
            return reply
        raise reply if isinstance(reply, DicomNodeError) else DecodeError("the transcoder gave no answer")

    def stop(self) -> None:
        """End it now; what is in hand fails."""
        self._child.stop()


def answer(request: TranscodeRequest, limits: DecodeLimits) -> int | DicomNodeError:
    """The reply to one request: never raises, so that the child stays."""
    try:
        with request.target.open("wb") as target:
            return transcode.transcode(request.source, target, request.transfer_syntax_uid, limits)
    except DicomNodeError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the child's boundary: whatever it is, it is this object's
        logger.error("not transcoded: %s", log.frames(error))
        return DecodeError(f"cannot be transcoded: {type(error).__name__}")


def main() -> None:
    """The process: settings from the lifeline, then requests until the parent hangs up."""
    connection, settings = lifeline()
    log.configure(settings.log.level, settings.log.format)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    quiet_libraries()
    serve(connection, lambda request: answer(request, settings.limits))


if __name__ == "__main__":
    main()
