"""Rendering as a service: a stored file, a frame and how it is shown in, an encoded picture out.

`RendererProcess` is the node's side; the child runs as `python -m dicomnode.workers.renderer FD`. The last frames stay
decoded in the child: a viewer asks for one at several sizes and windows.
"""

import logging
import resource
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
from pydicom.dataset import Dataset

from dicomnode import log
from dicomnode.errors import DecodeError, DicomNodeError
from dicomnode.pixels import decode, render
from dicomnode.pixels.eligibility import DecodeLimits
from dicomnode.pixels.render import Rendering
from dicomnode.quiet import quiet_libraries
from dicomnode.settings import LogSettings
from dicomnode.workers.asked import AskedChild, NoAnswer, serve
from dicomnode.workers.child import Child, lifeline

logger = logging.getLogger(__name__)
MODULE: Final = "dicomnode.workers.renderer"
TIMEOUT_S: Final = 30.0  # for one picture
MEMORY: Final = 4 << 30  # bytes of address space: the decoded frames, a file, and the libraries
FRAMES_KEPT: Final = 8
BYTES_KEPT: Final = 128 << 20  # of them together


@dataclass(frozen=True)
class RendererSettings:
    """What the child is told when it starts."""

    limits: DecodeLimits
    log: LogSettings


@dataclass(frozen=True)
class RenderRequest:
    """One picture. `source`: a Part 10 file; `frame`: counted from 1."""

    source: Path
    frame: int
    how: Rendering


class RendererProcess:
    """Asks the child, one picture at a time."""

    def __init__(
        self,
        settings: RendererSettings,
        timeout_s: float = TIMEOUT_S,
        start: Callable[..., Child] = Child,
    ) -> None:
        self._child = AskedChild(MODULE, settings, timeout_s, start)

    def render(self, request: RenderRequest) -> bytes:
        """The picture. Raises DecodeError, NotIndexable with the reason that there is none, NotReady."""
        try:
            reply = self._child.ask(request)
        except NoAnswer as error:
            raise DecodeError(f"cannot be rendered: {error}") from error
        if isinstance(reply, bytes):
            return reply
        raise reply if isinstance(reply, DicomNodeError) else DecodeError("the renderer gave no answer")

    def stop(self) -> None:
        """End it now; what is in hand fails."""
        self._child.stop()


class Renderer:
    """The child's side: decoded frames, kept for the next request."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._frames: OrderedDict[tuple[Path, int], tuple[Dataset, npt.NDArray[Any]]] = OrderedDict()

    def render(self, request: RenderRequest) -> bytes:
        """Decode (or remember) the frame and show it."""
        header, stored = self._frame((request.source, request.frame))
        return render.rendered(header, stored, request.how)

    def _frame(self, key: tuple[Path, int]) -> tuple[Dataset, npt.NDArray[Any]]:
        if key not in self._frames:
            header, stored = decode.stored(*key, self._limits)
            for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
                if keyword in header:
                    delattr(header, keyword)
            self._frames[key] = (header, stored)
            self._forget()
        self._frames.move_to_end(key)
        return self._frames[key]

    def _forget(self) -> None:
        """Let go of the oldest frames; the newest stays whatever its size."""
        while len(self._frames) > 1 and (
            len(self._frames) > FRAMES_KEPT or sum(stored.nbytes for _, stored in self._frames.values()) > BYTES_KEPT
        ):
            self._frames.popitem(last=False)


def answer(renderer: Renderer, request: RenderRequest) -> bytes | DicomNodeError:
    """The reply to one request: never raises, so that the child stays."""
    try:
        return renderer.render(request)
    except DicomNodeError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the child's boundary: whatever it is, it is this picture's
        logger.error("not rendered: %s", log.frames(error))
        return DecodeError(f"cannot be rendered: {type(error).__name__}")


def main() -> None:
    """The process: settings from the lifeline, then requests until the parent hangs up."""
    connection, settings = lifeline()
    log.configure(settings.log.level, settings.log.format)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    quiet_libraries()
    renderer = Renderer(settings.limits)
    serve(connection, lambda request: answer(renderer, request))


if __name__ == "__main__":
    main()
