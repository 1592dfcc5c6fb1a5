"""`train compare` on made-up chests: one table, no run twice, and what it refuses."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dicomnode.cli import main
from encoder import compare
from encoder.pipeline import Pipeline
from encoder.train.encoder import OBJECTIVES
from tests.unit.encoder import chests, small

NAMES = ("regionmir", "simclr")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two objectives over two seeds, an epoch each."""
    # What takes long and is tested elsewhere.
    monkeypatch.setattr(compare.Pipeline, "load", partial(Pipeline.load, runtime="torch"))
    monkeypatch.setattr("encoder.metrics.RESAMPLES", 20)
    monkeypatch.setattr("encoder.train.loop._draw", lambda *_: None)
    monkeypatch.setattr(compare, "EncoderShape", lambda size, **_: replace(small.ENCODER, size=size))
    data = chests.write(tmp_path / "cxr", 7, 1)
    detector = small.write(tmp_path / "detector")
    given = [
        "--data",
        data,
        "--out",
        tmp_path / "out",
        "--detector",
        detector,
        "--epochs",
        1,
        "--size",
        64,
        "--threads",
        1,
    ]
    return ["train", "compare", *map(str, given), "--seed", "0", "1", "--objective", *NAMES, "--json"]


def answered(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main.run(command) == 0
    return json.loads(capsys.readouterr().out)


def test_the_table_and_that_nothing_is_trained_twice(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, int, bool]] = []
    train = compare.train_encoder

    def counted(options: Any, *given: Any) -> None:
        trained.append((options.objective, options.seed, options.from_scratch))
        train(options, *given)

    monkeypatch.setattr(compare, "train_encoder", counted)
    result = answered(command, capsys)
    # All objectives of a seed first.
    assert trained == [(name, seed, True) for seed in (0, 1) for name in NAMES]
    assert result["films"] == 4
    *rows, raw = result["table"]
    assert sorted(row["objective"] for row in rows) == sorted(NAMES)
    assert [row["map"] for row in rows] == sorted((row["map"] for row in rows), reverse=True)
    assert raw == {"objective": "raw 16 x 16 pixels", "map": result["runs"]["simclr"][0]["raw_pixels_map"]}
    for row in rows:
        runs = result["runs"][row["objective"]]
        maps = [run["map"] for run in runs]
        assert (row["seeds"], [run["seed"] for run in runs]) == (2, [0, 1])
        assert row["map"] == pytest.approx(sum(maps) / 2, abs=1e-4)
        assert row["map_range"] == [min(maps), max(maps)]
        assert row["map_ci95"][0] <= row["map_range"][0] <= row["map_range"][1] <= row["map_ci95"][1]
        assert all(0.0 <= row[column] <= 1.0 for column in compare.COLUMNS)
    out = tmp_path / "out"
    assert json.loads((out / "comparison.json").read_text()) == result
    kept = {path: path.read_bytes() for path in out.glob("*/*.safetensors")}
    assert len(kept) == 8  # a set for each run, all with the same detector
    assert len({content for path, content in kept.items() if path.stem == "detector"}) == 1
    assert len({content for path, content in kept.items() if path.stem == "encoder"}) == 4
    assert answered(command, capsys) == result
    assert len(trained) == 4
    (out / "simclr-1" / "result.json").unlink()
    assert answered(command, capsys)["runs"]["regionmir"] == result["runs"]["regionmir"]
    assert trained[4:] == [("simclr", 1, True)]
    assert {path: path.read_bytes() for path in kept} == kept  # resumed: its epochs were done
    assert main.run(command[:-1]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in (*NAMES, "raw 16 x 16 pixels"))


def test_an_objective_that_there_is_not_is_one_line_with_those_there_are(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*command[:-1], "likeness"]) == 1
    said = capsys.readouterr().err.strip()
    assert said == f"dicomnode: no objective likeness; there are {', '.join(OBJECTIVES)}"
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_detector_is_one_line_and_trains_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "detector" / "detector.safetensors").unlink()
    assert main.run(command) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("dicomnode: detector.safetensors: cannot be read")
    assert "\n" not in said
    assert not (tmp_path / "out").exists()
