"""The runtime asked for and the device go in, the runtime that is taken comes out. Imports nothing heavy."""

import importlib.util
from typing import Literal, get_args

from encoder.errors import CheckpointError

Runtime = Literal["torch", "openvino"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
AUTO = "auto"  # openvino where it is installed and the device is the CPU, else torch


def chosen(runtime: str, device: str) -> Runtime:
    """What `runtime` means here. CheckpointError when it cannot be had."""
    if runtime not in (AUTO, *RUNTIMES):
        raise CheckpointError(f"no runtime {runtime!r}; there are {', '.join((AUTO, *RUNTIMES))}")
    if runtime == "torch":
        return "torch"
    installed = importlib.util.find_spec("openvino") is not None
    if runtime == "openvino" and not installed:
        raise CheckpointError("the runtime openvino is not installed")
    if runtime == "openvino" and device != "cpu":
        raise CheckpointError(f"the runtime openvino runs on the device cpu, not on {device}")
    return "openvino" if installed and device == "cpu" else "torch"
