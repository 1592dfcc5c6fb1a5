"""A runtime that is configured and not to be had ends the start in one line; no worker is left to die of it."""

import sys

import pytest

from dicomnode import config
from dicomnode.errors import ConfigError
from dicomnode.node import Node


@pytest.fixture
def without_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.mark.usefixtures("without_openvino")
def test_a_runtime_that_is_not_installed(tmp_path):
    settings = {"storage.root": str(tmp_path / "root"), "models.runtime": "openvino"}
    with pytest.raises(ConfigError) as caught:
        Node(config.load(None, {}, settings)).start()
    assert str(caught.value) == "models.runtime: the runtime openvino is not installed"
    assert not (tmp_path / "root").exists()


def test_a_runtime_that_does_not_run_on_the_device(tmp_path):
    settings = {"storage.root": str(tmp_path / "root"), "models.runtime": "openvino", "models.device": "cuda"}
    with pytest.raises(ConfigError, match=r"models\.runtime: the runtime openvino"):
        Node(config.load(None, {}, settings)).start()
