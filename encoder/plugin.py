"""A model folder goes in, the encoder it holds comes out: this program's own, or one that somebody else made."""

from pathlib import Path

from encoder.checkpoint import Manifest, ModelCard, home, read_manifest, save_bytes, verify
from encoder.errors import CheckpointError
from encoder.protocol import BOXES, Encoder, prove
from encoder.runtime import DetectorRuntime, EncoderRuntime, steady
from encoder.scripted import SETTINGS, ScriptedEncoder, ScriptShape


def load_encoder(folder: Path, device: str, runtime: str = "torch", threads: int | None = None) -> Encoder:
    """The encoder of a model set, by the kind that its manifest names.

    One of somebody else's is proved, on two boxes: every worker waits for it, and a large one takes its time.
    """
    if read_manifest(folder, "encoder").kind == "built-in":
        return EncoderRuntime.load(folder, device, runtime, threads)
    encoder = ScriptedEncoder.load(folder, device)
    prove(encoder, BOXES[:2])
    return encoder


def check(folder: Path, device: str = "cpu") -> ModelCard:
    """What a model set is, after everything that can be checked without a film: CheckpointError says what differs.

    Files, digests, region list; that both parts load; and the protocol, on drawn films.
    """
    card = verify(folder)
    steady(None)
    DetectorRuntime.load(home(folder, "detector"), device)
    prove(load_encoder(folder, device))
    return card


def pack(script: Path, shape: ScriptShape, out: Path, data: str) -> Manifest:
    """Prove a TorchScript program and write it with its manifest: a folder with an encoder alone.

    `data` says what it was trained on. CheckpointError when it breaks the protocol, or the folder holds an encoder.
    """
    if any(out.glob("encoder.*")):
        raise CheckpointError(f"{out.name}: the folder already holds an encoder")
    try:
        program = script.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{script.name}: cannot be read ({error.strerror})") from error
    manifest = Manifest(
        part="encoder",
        kind="torchscript",
        architecture=shape.plain(),
        preprocessing=SETTINGS,
        data=data,
        seed=0,
        commit=None,
        metrics={},
        projections={"anatomy": True, "finding": False},
    )
    steady(None)
    prove(ScriptedEncoder.of(manifest, program, "cpu"))
    return save_bytes(out, manifest, program)
