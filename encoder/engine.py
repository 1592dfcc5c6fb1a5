"""A trained network goes in, the same network as OpenVINO runs it on a CPU comes out: fp32, the same answers, sooner.

torch stays the reference, the trainer and the way on a GPU; this is taken where it is installed and the device is the
CPU (decision 8). The network is traced and handed over in memory: no file is written and nothing is sent anywhere.
One request at a time: a caller has its own.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encoder.detector import Detector, Slots
from encoder.preprocess import CHANNELS
from encoder.roi_encoder import PROJECTIONS, Encoded, RoiEncoder

BOXES = ((0.1, 0.1, 0.4, 0.5), (0.3, 0.2, 0.9, 0.8))  # what the tracer sees; any number can be asked later
SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # where the processor has bf16 it would take that: another ranking
    "PERFORMANCE_HINT": "LATENCY",
    "ENABLE_CPU_PINNING": "NO",  # pinned, two worker processes could share one core
}


def detector(model: Detector, threads: int | None) -> Callable[[Tensor], Slots]:
    """`Detector.forward` for one film: (1, 2, S, S)."""
    frame = torch.zeros(1, CHANNELS, model.shape.size, model.shape.size)
    run = _compiled(_Plain(model), (frame,), threads)
    return lambda frames: Slots(*run(frames))


def encoder(model: RoiEncoder, threads: int | None) -> Callable[[Tensor, Tensor], Encoded]:
    """`RoiEncoder.forward` for one film and any number of boxes: (1, 2, S, S) and (1, N, 4)."""
    frame = torch.zeros(1, CHANNELS, model.shape.size, model.shape.size)
    run = _compiled(_Flat(model), (frame, torch.tensor([BOXES])), threads)

    def forward(frames: Tensor, boxes: Tensor) -> Encoded:
        *vectors, anatomy, hidden, local = run(frames, boxes)
        return Encoded(dict(zip(PROJECTIONS, vectors, strict=True)), anatomy, hidden, local)

    return forward


class _Plain(nn.Module):
    """A tuple of tensors, which is all that a traced network can answer."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(frames))


class _Flat(nn.Module):
    def __init__(self, model: RoiEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        encoded: Encoded = self.model(frames, boxes)
        return *(encoded.vectors[name] for name in PROJECTIONS), encoded.anatomy, encoded.hidden, encoded.local


def _compiled(model: nn.Module, example: tuple[Tensor, ...], threads: int | None) -> Callable[..., tuple[Tensor, ...]]:
    """The network, its inputs fixed in shape but for the number of boxes."""
    # Its mere import would start a process that reports the use to its maker over the network. Without this package,
    # which nothing else needs, it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's age, and that Python numbers become constants: they are
        traced = torch.jit.freeze(torch.jit.trace(model.eval(), example, check_trace=False))  # type: ignore[no-untyped-call]
    decoder = TorchScriptPythonDecoder(traced, example_input=example)  # kept until it is converted
    front = FrontEndManager().load_by_framework("pytorch")
    network = front.convert(front.load(decoder))
    for each in network.inputs:
        each.get_node().set_element_type(openvino.Type.f32)
    network.validate_nodes_and_infer_types()
    shapes: dict[int, Any] = {0: list(example[0].shape)}
    if len(example) > 1:
        shapes[1] = [1, -1, 4]
    network.reshape(shapes)
    settings = SETTINGS | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})
    request = openvino.Core().compile_model(network, "CPU", settings).create_infer_request()
    outputs = len(network.outputs)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        request.infer([np.ascontiguousarray(each.numpy()) for each in inputs])
        return tuple(torch.from_numpy(request.get_output_tensor(n).data.copy()) for n in range(outputs))

    return run
