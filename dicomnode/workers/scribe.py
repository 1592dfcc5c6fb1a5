"""Result objects as a service: a kept answer as plain values in, a result SR and a result panel as files out.

`ScribeProcess` is the node's side; the child runs as `python -m dicomnode.workers.scribe FD`. It is started when told
to or first needed. Films are decoded there, so that a codec that crashes takes the picture of a hit with it and nothing
else.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomnode import log
from dicomnode.attributes.header import read_header
from dicomnode.errors import DecodeError, DicomNodeError, ModelFailure, NotIndexable
from dicomnode.pixels import decode
from dicomnode.pixels.eligibility import DecodeLimits
from dicomnode.quiet import quiet_libraries, quiet_pydicom
from dicomnode.workers import limits
from dicomnode.workers.asked import AskedChild, NoAnswer, serve
from dicomnode.workers.child import Child, lifeline
from dicomnode.workers.drafts import PanelRequest, ReportRequest, Request, ScribeSettings, Source, Written
from encoder.anatomy import VOCABULARY

logger = logging.getLogger(__name__)
MODULE: Final = "dicomnode.workers.scribe"
TIMEOUT_S: Final = 60.0  # for one answer
MOST_SHOWN: Final = 8  # hits in the picture
MEMORY_MIB: Final = 2048  # that one answer may take


class ScribeProcess:
    """Asks the child, one object at a time; a child that died or hangs is replaced and the object fails."""

    def __init__(
        self,
        settings: ScribeSettings,
        timeout_s: float = TIMEOUT_S,
        start: Callable[..., Child] = Child,
    ) -> None:
        self._child = AskedChild(MODULE, settings, timeout_s, start)

    def start(self) -> None:
        """Begin loading what it needs, unless it runs; does not wait for it."""
        self._child.start()

    def write(self, request: Request) -> Written:
        """Write one object. Raises ModelFailure, which another try may mend, and NotReady while stopping."""
        try:
            reply = self._child.ask(request)
        except NoAnswer as error:
            raise ModelFailure(f"result objects were not made: {error}") from error
        if isinstance(reply, Written):
            return reply
        raise reply if isinstance(reply, DicomNodeError) else ModelFailure("result objects were not made")

    def stop(self) -> None:
        """End it now; what is in hand fails."""
        self._child.stop()


@dataclass
class Scribe:
    """The child's side."""

    limits: DecodeLimits

    def write(self, request: Request) -> Written:
        """The file that is asked for."""
        with quiet_pydicom():
            return self._report(request) if isinstance(request, ReportRequest) else self._panel(request)

    def _report(self, request: ReportRequest) -> Written:
        from dicomnode.sr.result import result_sr

        images = {uid: read_header(encoded) for uid, encoded in request.headers.items()}
        document = result_sr(images, request.asked, request.hits, request.facts)
        document.save_as(request.target, enforce_file_format=True)
        return Written()

    def _panel(self, request: PanelRequest) -> Written:
        from dicomnode.pixels.montage import Tile, montage
        from dicomnode.sr.panel import panel

        shown = request.hits[:MOST_SHOWN]
        asked = Tile(self._pixels(request.asked), request.asked.box, "asked", "")
        tiles = [
            Tile(self._pixels(film), film.box, f"#{hit.rank}   {hit.score:.3f}", VOCABULARY[hit.anatomy].name)
            for hit, film in shown
        ]
        heading = f"Similar regions: the best {len(tiles)} of {len(request.hits)}" if tiles else "No similar region"
        picture = montage(asked, tiles, heading, "; ".join(("Not for diagnostic use", *request.warnings)))
        panel(read_header(request.header), picture, request.facts).save_as(request.target, enforce_file_format=True)
        return Written(len(tiles))

    def _pixels(self, source: Source) -> NDArray[np.float32] | None:
        """The film's picture; None where it says that text is burnt in, or cannot be decoded."""
        with suppress(DecodeError, NotIndexable):
            header = decode.read(source.file, self.limits, header_only=True)
            if str(header.get("BurnedInAnnotation") or "").strip().upper() != "YES":
                return decode.image(source.file, source.frame, self.limits).pixels
        return None


def answer(scribe: Scribe, request: Request) -> Written | DicomNodeError:
    """The reply to one request: never raises, so that the child stays."""
    try:
        return scribe.write(request)
    except DicomNodeError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the child's boundary: whatever it is, it is this answer's
        logger.error("result objects not made: %s", log.frames(error))
        return ModelFailure(f"result objects cannot be made: {type(error).__name__}")


def main() -> None:
    """The process: settings from the lifeline, then requests until the parent hangs up."""
    connection, settings = lifeline()
    log.configure(settings.log.level, settings.log.format)
    quiet_libraries()
    with limits.lifted(MEMORY_MIB, "cpu"):
        import highdicom.sr  # noqa: F401 - what it takes is not an answer's
    scribe = Scribe(settings.limits)
    serve(connection, lambda request: answer(scribe, request))


if __name__ == "__main__":
    main()
