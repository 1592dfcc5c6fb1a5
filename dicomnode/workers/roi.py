"""The query model: an image's file and boxes in, vectors and anatomy probabilities out, in a process of its own.

`RoiProcess` is the node's side; the child runs as `python -m dicomnode.workers.roi FD`. Separate from the indexers,
so that a question never waits behind a queue of films, and from the receiver, so that this never loads a model.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from dicomnode import log
from dicomnode.errors import DecodeError, DicomNodeError, ModelFailure
from dicomnode.pixels import decode
from dicomnode.settings import IngestSettings, LogSettings, ModelSettings
from dicomnode.workers import limits
from dicomnode.workers.asked import AskedChild, NoAnswer, serve
from dicomnode.workers.child import Child, lifeline
from dicomnode.workers.embedding import OcclusionRequest, RoiEmbedding, RoiOcclusion, RoiRequest
from encoder.boxes import Box
from encoder.errors import EncoderError
from encoder.pipeline import Pipeline

logger = logging.getLogger(__name__)
MODULE = "dicomnode.workers.roi"
IMAGES_KEPT = 8  # decoded films: several ROIs are asked on one image
BYTES_KEPT = 256 << 20  # of them together: eight of 2500 x 2500 float32 are 200 MB
Reply = TypeVar("Reply", RoiEmbedding, RoiOcclusion)


@dataclass(frozen=True)
class RoiSettings:
    """What the child is told when it starts."""

    threads: int
    ingest: IngestSettings
    log: LogSettings
    warm: Path | None  # model folder to load before the first question
    models: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True)
class Ready:
    """Asked of a child, and its answer when its model is loaded."""


class RoiProcess:
    """Asks the child, one question at a time; a child that died or hangs is replaced and the question fails.

    While a swap of models is prepared there are two children: each is asked about the model that it has.
    """

    def __init__(self, settings: RoiSettings, timeout_s: float, start: Callable[..., Child] = Child) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._start = start
        self._child = self._new(settings.warm)
        self._next: tuple[Path, AskedChild] | None = None

    def _new(self, folder: Path | None) -> AskedChild:
        return AskedChild(MODULE, replace(self._settings, warm=folder), self._timeout_s, self._start)

    def prepare(self, folder: Path) -> None:
        """Have another model loaded beside the one in use, on return; questions about this one go on."""
        if folder == self._settings.warm or (self._next is not None and self._next[0] == folder):
            return
        child = self._new(folder)
        with suppress(NoAnswer):  # it is replaced by the first question
            child.ask(Ready())
        before, self._next = self._next, (folder, child)
        if before is not None:
            before[1].stop()

    def settle(self, folder: Path) -> None:
        """This model is in use from now on: the other one's child ends, if there is one for this."""
        if self._next is None or self._next[0] != folder:
            return
        old, self._child, self._next = self._child, self._next[1], None
        self._settings = replace(self._settings, warm=folder)
        old.stop()

    def _child_for(self, folder: Path) -> AskedChild:
        coming = self._next
        return coming[1] if coming is not None and coming[0] == folder else self._child

    def start(self) -> None:
        """Begin loading the model; does not wait for it."""
        self._child.start()

    @property
    def alive(self) -> bool:
        """Whether the child runs, with a model loaded or loading."""
        return self._child.alive

    def embed(self, request: RoiRequest) -> RoiEmbedding:
        """Vectors of the boxes. Raises ModelFailure, DecodeError, and NotReady while stopping."""
        return self._asked(request, RoiEmbedding)

    def occlude(self, request: OcclusionRequest) -> RoiOcclusion:
        """The box encoded with each of the covers asked for. Raises as `embed`."""
        return self._asked(request, RoiOcclusion)

    def _asked(self, request: RoiRequest | OcclusionRequest, kind: type[Reply]) -> Reply:
        try:
            reply = self._child_for(request.model_folder).ask(request)
        except NoAnswer as error:
            why = "did not answer in time" if error.hung else "died"
            raise ModelFailure(f"the query model {why}") from error
        if isinstance(reply, kind):
            return reply
        raise reply if isinstance(reply, DicomNodeError) else ModelFailure("the query model gave no answer")

    def stop(self) -> None:
        """End it now; questions in hand or waiting fail."""
        self._child.stop()
        if self._next is not None:
            self._next[1].stop()


class RoiEncoder:
    """The child's side: decoded images and loaded models, kept for the next question."""

    def __init__(self, settings: RoiSettings, loading: limits.Loading = nullcontext) -> None:
        """`loading`: what a model is loaded in; the process gives one that limits its memory afterwards."""
        self._settings = settings
        self._loading = loading
        self._limits = decode.Policy.of(settings.ingest).limits
        self._pipelines: dict[Path, Pipeline] = {}
        self._images: OrderedDict[tuple[Path, int], decode.DecodedImage] = OrderedDict()

    def embed(self, request: RoiRequest) -> RoiEmbedding:
        """Decode (or remember) the image and encode the boxes."""
        pipeline = self.pipeline(request.model_folder)  # first: it sets the memory limit
        image = self._image(request.file, request.frame)
        boxes = [Box(*box) for box in request.boxes]
        embedding = pipeline.embed(image.pixels, boxes, image.spacing_mm)
        return RoiEmbedding(dict(embedding.vectors), embedding.anatomy_probability, embedding.local)

    def occlude(self, request: OcclusionRequest) -> RoiOcclusion:
        """Decode (or remember) the image and encode the box with its parts covered."""
        pipeline = self.pipeline(request.model_folder)
        image = self._image(request.file, request.frame)
        found = pipeline.occlude(image.pixels, Box(*request.box), request.cells, request.numbers, image.spacing_mm)
        return RoiOcclusion(found.grid, dict(found.vectors), found.cells)

    def pipeline(self, folder: Path) -> Pipeline:
        """The loaded model of that folder."""
        if folder not in self._pipelines:
            self._images.clear()  # what they take is part of what a film may take
            chosen = self._settings
            with self._loading():
                self._pipelines[folder] = Pipeline.load(
                    folder, chosen.models.device, chosen.threads, chosen.models.runtime
                )
        return self._pipelines[folder]

    def _image(self, file: Path, frame: int) -> decode.DecodedImage:
        key = (file, frame)
        if key not in self._images:
            self._images[key] = decode.image(file, frame, self._limits)
            self._forget()
        self._images.move_to_end(key)
        return self._images[key]

    def _forget(self) -> None:
        """Let go of the oldest images; the newest stays whatever its size."""
        while len(self._images) > 1 and (
            len(self._images) > IMAGES_KEPT or sum(image.pixels.nbytes for image in self._images.values()) > BYTES_KEPT
        ):
            self._images.popitem(last=False)


def answer(
    encoder: RoiEncoder, request: RoiRequest | OcclusionRequest | Ready
) -> RoiEmbedding | RoiOcclusion | Ready | DicomNodeError:
    """The reply to one request: never raises, so that the child stays."""
    try:
        if isinstance(request, Ready):
            return request
        return encoder.occlude(request) if isinstance(request, OcclusionRequest) else encoder.embed(request)
    except DicomNodeError as error:
        return error
    except EncoderError as error:
        logger.warning("ROI not encoded: %s", error)
        return DecodeError("the image cannot be encoded")
    except Exception:
        logger.exception("ROI not encoded")
        return ModelFailure("the query model failed: see the node's log")


def main() -> None:
    """The process: settings from the lifeline, then requests until the parent hangs up."""
    connection, settings = lifeline()
    log.configure(settings.log.level, settings.log.format)
    encoder = RoiEncoder(settings, partial(limits.lifted, settings.ingest.maximum_memory_mib, settings.models.device))
    if settings.warm is not None:
        encoder.pipeline(settings.warm)
    serve(connection, lambda request: answer(encoder, request))


if __name__ == "__main__":
    main()
