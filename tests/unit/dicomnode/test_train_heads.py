"""`dicomnode train all`, `local` and `finding` end to end on made-up chests, and what they say when they cannot."""

from pathlib import Path

import numpy as np
import pytest

from dicomnode.cli import main
from encoder.boxes import Box
from encoder.checkpoint import read_manifest
from encoder.pipeline import Pipeline
from encoder.train.encoder import SHIPPED_OBJECTIVE
from tests.unit.encoder import chests, small


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.train.detector.DetectorShape", lambda: small.DETECTOR)
    monkeypatch.setattr("encoder.train.encoder.EncoderShape", lambda: small.ENCODER)
    monkeypatch.setattr("encoder.train.local.THINGS", 4)
    monkeypatch.setattr("encoder.train.loop._draw", lambda *_: None)  # takes long, and is tested with the detector


def trained(part: str, data: Path, out: Path) -> int:
    return main.run(("train", part, "--data", str(data), "--out", str(out), "--epochs", "1", "--threads", "1"))


def loaded(out: Path) -> Pipeline:
    return Pipeline.load(out, threads=1, runtime="torch")


def test_all_leaves_a_whole_set(tmp_path: Path) -> None:
    data = chests.diagnose(chests.write(tmp_path / "cxr", 7, 1))
    assert trained("all", data, tmp_path / "out") == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["detector", "encoder", "finding", "local"]
    manifest = read_manifest(out, "encoder")
    assert manifest.local
    assert {"map", "local_placed", "finding_p@5", "finding_over_chance_low"} <= set(manifest.metrics)
    assert manifest.objective == SHIPPED_OBJECTIVE
    assert manifest.unlike_slack >= 1.0
    rng = np.random.default_rng(0)
    found = loaded(out).embed(chests.picture(chests.contours(rng), rng), [Box(10, 10, 40, 80)])
    assert found.local is not None
    assert found.local.features.shape == (12, 12, small.ENCODER.local)
    assert tuple(found.vectors) == tuple(name for name, offered in manifest.projections.items() if offered)


def test_all_without_findings_leaves_a_set_without_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = chests.write(tmp_path / "cxr", 7, 1)
    assert trained("all", data, tmp_path / "out") == 0
    assert "left out: no film says what its regions show" in capsys.readouterr().err
    manifest = read_manifest(tmp_path / "out", "encoder")
    assert manifest.local
    assert manifest.projections == {"anatomy": True, "finding": False}


def test_finding_alone_without_findings_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = chests.write(tmp_path / "cxr", 7, 1), small.write(tmp_path / "out")
    before = (out / "encoder.json").read_bytes()
    assert trained("finding", data, out) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dicomnode:")]
    assert said == ["dicomnode: no film says what its regions show: there is no finding to train on"]
    assert (out / "encoder.json").read_bytes() == before


@pytest.mark.parametrize("part", ["local", "finding"])
def test_a_head_without_an_encoder_is_one_clear_error(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = chests.diagnose(chests.write(tmp_path / "cxr", 7, 1))
    assert trained(part, data, tmp_path / "out") == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("dicomnode: encoder.json: no readable manifest in this folder")
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_local_on_a_set_that_is_there(tmp_path: Path) -> None:
    data, out = chests.write(tmp_path / "cxr", 7, 1), small.write(tmp_path / "out")
    detector = (out / "detector.safetensors").read_bytes()
    assert trained("local", data, out) == 0
    assert (out / "detector.safetensors").read_bytes() == detector
    rng = np.random.default_rng(0)
    local = loaded(out).analyse(chests.picture(chests.contours(rng), rng)).local
    assert local is not None
    assert tuple(local.area) == (0, 0, chests.SIDE, chests.SIDE)
