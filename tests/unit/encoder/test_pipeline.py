"""The way in: shapes, unit norm, sameness, and what it costs to import."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from encoder.boxes import Box
from encoder.errors import ImageError
from encoder.pipeline import SHIPPED, Pipeline, describe
from tests.unit.encoder import chests, small

shipped = pytest.mark.skipif(not (SHIPPED / "encoder.json").exists(), reason="no shipped weights in this checkout")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.load(small.write(tmp_path_factory.mktemp("model") / "set"))


@pytest.fixture(scope="module")
def default() -> Pipeline:
    return Pipeline.load()


def film(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(chests.picture(chests.contours(rng), rng), np.ones((4, 4))).astype(np.float32)


def test_loading_a_model_is_deterministic_and_brings_no_compiler() -> None:
    script = (
        "import sys, torch; from encoder.runtime import steady; steady(1); "
        "assert torch.get_deterministic_debug_mode() == 2; "
        "sys.exit('torch._inductor' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_rows_follow_regions_and_are_unit_vectors(pipeline: Pipeline) -> None:
    analysis = pipeline.analyse(film(1))
    assert list(analysis.vectors) == ["anatomy"]
    vectors = analysis.vectors["anatomy"]
    assert vectors.shape == (len(analysis.regions), pipeline.card.dim)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(vectors)), abs=1e-5)
    anatomies = [region.anatomy for region in analysis.regions]
    assert anatomies == sorted(set(anatomies))


def test_boxes_lie_in_the_image(pipeline: Pipeline) -> None:
    image = film(2)[:, :300]
    for region in pipeline.analyse(image).regions:
        assert 0 <= region.box.x1 < region.box.x2 <= 300
        assert 0 <= region.box.y1 < region.box.y2 <= image.shape[0]
        assert 0.0 <= region.presence <= 1.0


def test_a_given_box_has_a_vector_and_29_probabilities(pipeline: Pipeline) -> None:
    embedding = pipeline.embed(film(1), [Box(10, 10, 90, 200), Box(100, 30, 220, 220)])
    assert embedding.vectors["anatomy"].shape == (2, pipeline.card.dim)
    assert embedding.anatomy_probability.shape == (2, 29)
    assert embedding.anatomy_probability.sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_found_region_drawn_again_has_its_vector(pipeline: Pipeline) -> None:
    analysis = pipeline.analyse(film(3))
    again = pipeline.embed(film(3), [region.box for region in analysis.regions])
    assert np.abs(analysis.vectors["anatomy"] - again.vectors["anatomy"]).max() < 1e-5


def test_no_box_gives_no_row(pipeline: Pipeline) -> None:
    assert pipeline.embed(film(1), []).vectors["anatomy"].shape == (0, pipeline.card.dim)


def test_a_box_outside_the_image_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ImageError, match="no area inside"):
        pipeline.embed(film(1), [Box(9000, 0, 9100, 50)])


def test_a_box_past_the_edge_is_clipped(pipeline: Pipeline) -> None:
    image = film(1)
    inside, past = Box(50, 60, image.shape[1], 200), Box(50, 60, image.shape[1] + 80, 200)
    a, b = (pipeline.embed(image, [box]).vectors["anatomy"] for box in (inside, past))
    assert np.array_equal(a, b)


SPACINGS = (None, (0.2, 0.1), None)


def films() -> list[np.ndarray]:
    return [film(1), film(2)[:, :300], film(3)[50:, 20:]]


def test_films_given_together_are_as_alone_on_a_cpu(pipeline: Pipeline) -> None:
    for together, image, spacing in zip(pipeline.analyse_many(films(), SPACINGS), films(), SPACINGS, strict=True):
        alone = pipeline.analyse(image, spacing)
        assert together.regions == alone.regions
        assert together.vectors["anatomy"].tobytes() == alone.vectors["anatomy"].tobytes()
    assert pipeline.analyse_many([]) == []


def test_a_batch_gives_each_film_its_own(tmp_path: Path) -> None:
    """What a GPU does, on a CPU under another name. Films have other numbers of regions than one another."""
    folder = small.write(tmp_path / "set", presence=0.5)
    batching, reference = (Pipeline.load(folder, device, runtime="torch") for device in ("cpu:0", "cpu"))
    batch = batching.analyse_many(films(), SPACINGS)
    assert len({len(analysis.regions) for analysis in batch}) > 1
    for together, image, spacing in zip(batch, films(), SPACINGS, strict=True):
        alone = reference.analyse(image, spacing)
        assert [region.anatomy for region in together.regions] == [region.anatomy for region in alone.regions]
        for one, other in zip(together.regions, alone.regions, strict=True):
            assert one.box == pytest.approx(other.box, abs=0.02)
        assert (together.vectors["anatomy"] * alone.vectors["anatomy"]).sum(axis=1).min() > 0.9999


def test_a_batch_in_which_nothing_is_found(tmp_path: Path) -> None:
    folder = small.write(tmp_path / "set", presence=1.0)
    for analysis in Pipeline.load(folder, "cpu:0", runtime="torch").analyse_many(films()):
        assert analysis.regions == ()
        assert analysis.vectors["anatomy"].shape[0] == 0


def same(pipeline: Pipeline) -> None:
    first = pipeline.analyse(film(1))
    pipeline.analyse(film(2))
    pipeline.embed(film(3), [Box(10, 10, 60, 90)])
    second = pipeline.analyse(film(1))
    assert first.regions == second.regions
    assert first.vectors["anatomy"].tobytes() == second.vectors["anatomy"].tobytes()


def test_the_same_film_gives_the_same_bytes_whatever_came_before(pipeline: Pipeline) -> None:
    same(pipeline)


@shipped
def test_the_shipped_model_is_deterministic(default: Pipeline) -> None:
    same(default)


@shipped
def test_the_shipped_set_is_whole_and_small(default: Pipeline) -> None:
    assert default.card == describe(SHIPPED)
    assert default.card.projections == ("anatomy",)
    assert set(default.card.unlike_thresholds) == set(range(29))
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 25e6


@shipped
@pytest.mark.data
def test_the_same_film_in_another_container_has_the_same_vectors(default: Pipeline, data_dir: Path) -> None:
    from encoder.data import read

    for chosen in read(data_dir / "cxr").films[::100]:
        image = chosen.image
        analysis = default.analyse(image)
        for stored in (image * 16, np.round(image * 257) - 32768, image / 255):
            other = default.analyse(stored.astype(np.float32))
            assert [r.anatomy for r in other.regions] == [r.anatomy for r in analysis.regions]
            agreement = (other.vectors["anatomy"] * analysis.vectors["anatomy"]).sum(axis=1)
            assert agreement.min() > 0.99


@shipped
@pytest.mark.data
def test_the_shipped_model_finds_what_a_film_shows(default: Pipeline, data_dir: Path) -> None:
    from encoder.data import read, split

    for chosen in split(read(data_dir / "cxr").films, "dev_val")[::9]:
        found = {region.anatomy: region.box for region in default.analyse(chosen.image).regions}
        for anatomy in (0, 8, 24):
            assert found[anatomy].iou(chosen.regions[anatomy]) > 0.6, (chosen.id, anatomy)
        upper = default.analyse(chosen.image[: chosen.image.shape[0] // 3])
        assert not {6, 14, 15} & {region.anatomy for region in upper.regions}  # nothing of the lung bases is there


def test_asking_what_a_model_is_imports_no_torch(tmp_path: Path) -> None:
    folder = small.write(tmp_path / "set")
    program = (
        "import sys\n"
        "import encoder.anatomy, encoder.boxes, encoder.errors, encoder.rules, encoder.checkpoint\n"
        "from encoder.pipeline import Pipeline, describe\n"
        "from pathlib import Path\n"
        f"describe(Path({str(folder)!r}))\n"
        "print(sorted({'torch', 'monai'} & set(sys.modules)))\n"
    )
    root = Path(__file__).parents[3]
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert ran.stdout.strip() == "[]"
