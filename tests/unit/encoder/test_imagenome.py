"""Reading Chest ImaGenome: a made-up set in its layout, and a counted line for each of its traps."""

from pathlib import Path

import numpy as np
import pytest

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.data import GOLD, HELD, TEST, TRAIN, Collection, Listed, Reason, read
from encoder.errors import ImageError, TrainingDataError
from tests.unit.encoder import imagenomes
from tests.unit.encoder.imagenomes import Made, boxed, said


def index(name: str) -> int:
    return VOCABULARY.named(name).index


def collected(folder: Path, films: list[Made], **how: object) -> Collection:
    imagenomes.write(folder / "data", films, **how)  # type: ignore[arg-type]
    return read(folder / "data", imagenomes.draw(folder / "images", films))


def lines(collection: Collection, reason: Reason) -> list[str]:
    return [line.record for line in collection.left_out if line.reason == reason]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_whole_set_is_read_from_a_folder_or_its_archive(tmp_path: Path, zipped: bool) -> None:
    films = imagenomes.made(4)
    found = collected(tmp_path, films, zipped=zipped)
    assert [film.id for film in found.films] == [film.dicom_id for film in films]
    assert [film.split for film in found.films] == [TRAIN, TRAIN, HELD, TEST]
    assert [film.patient for film in found.films] == [film.subject for film in films]
    first = found.films[0]
    assert set(first.listed) == set(range(29))
    assert isinstance(first.labels, Listed)
    assert first.source == "chest-imagenome"
    assert first.size == first.image.shape == (imagenomes.ROWS, imagenomes.COLUMNS)
    assert found.left_out == ()


def test_an_archive_unpacked_into_a_folder_of_its_name_is_read(tmp_path: Path) -> None:
    films = imagenomes.made(2)
    imagenomes.write(tmp_path / "data", films)
    graphs = tmp_path / "data/silver_dataset/scene_graph"
    graphs.rename(tmp_path / "inner")
    graphs.mkdir()
    (tmp_path / "inner").rename(graphs / "scene_graph")
    assert len(read(tmp_path / "data", imagenomes.draw(tmp_path / "images", films)).films) == 2


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_may_lie_in_one_flat_folder(tmp_path: Path, suffix: str) -> None:
    films = imagenomes.made(2)
    imagenomes.write(tmp_path / "data", films)
    images = imagenomes.draw(tmp_path / "images", films, suffix, flat=True)
    found = read(tmp_path / "data", images)
    assert np.abs(found.films[0].image - films[0].pixels).mean() < 8  # JPEG loses a little


def test_pictures_may_lie_beside_the_data(tmp_path: Path) -> None:
    films = imagenomes.made(2)
    imagenomes.draw(imagenomes.write(tmp_path, films), films)
    assert len(read(tmp_path).films) == 2


def test_a_dicom_file_needs_a_decoder(tmp_path: Path) -> None:
    films = imagenomes.made(2)
    imagenomes.write(tmp_path / "data", films)
    images = imagenomes.draw(tmp_path / "images", films, ".dcm", save=lambda _, path: path.touch())
    with pytest.raises(TrainingDataError, match=r"image unreadable: 2"):
        read(tmp_path / "data", images)


def test_boxes_past_the_edge_are_clipped_and_those_without_area_left_out(tmp_path: Path) -> None:
    films = imagenomes.made(1)
    films[0].box("abdomen").update(original_x2=imagenomes.COLUMNS + 9, original_y2=imagenomes.ROWS + 9)
    films[0].box("spine").update(original_x1=50, original_x2=50)
    films[0].box("carina").update(original_x1=400, original_x2=420)
    film, found = _only(collected(tmp_path, films))
    assert film.listed[index("abdomen")][2:] == (imagenomes.COLUMNS, imagenomes.ROWS)
    assert not {index("spine"), index("carina")} & set(film.regions)
    assert found.skipped == {Reason.CLIPPED: 1, Reason.NO_AREA: 1, Reason.OUTSIDE: 1}
    assert str(found.left_out[0]).startswith(films[0].dicom_id)


def test_a_region_without_a_box_is_unlabelled(tmp_path: Path) -> None:
    films = imagenomes.made(1)
    films[0].objects.remove(films[0].box("trachea"))
    film, found = _only(collected(tmp_path, films))
    assert len(film.regions) == 28
    assert found.left_out == ()


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_without_original_edges_the_padded_frame_is_mapped_back(tmp_path: Path, missing: float | None) -> None:
    films = imagenomes.made(1)
    right = films[0].box("right lung")
    true = Box(*(right[f"original_{edge}"] for edge in ("x1", "y1", "x2", "y2")))
    right["original_x1"] = missing
    film, found = _only(collected(tmp_path, films))
    assert film.listed[index("right lung")] == pytest.approx(true)
    assert found.skipped == {Reason.PADDED_FRAME: 1}


def test_a_box_of_neither_frame_and_a_name_that_nobody_knows_are_said(tmp_path: Path) -> None:
    films = imagenomes.made(1)
    films[0].box("spine").update(original_x1="far", x1=None)
    films[0].objects.append(boxed("left knee", [1, 1, 9, 9]))
    _, found = _only(collected(tmp_path, films))
    assert found.skipped == {Reason.NOT_A_BOX: 1, Reason.UNKNOWN_NAME: 1}


def test_a_film_with_right_and_left_swapped_is_left_out(tmp_path: Path) -> None:
    films = imagenomes.made(2)
    right, left = films[1].box("right lung"), films[1].box("left lung")
    right["bbox_name"], left["bbox_name"] = "left lung", "right lung"
    found = collected(tmp_path, films)
    assert [film.id for film in found.films] == [films[0].dicom_id]
    assert lines(found, Reason.SWAPPED) == [films[1].dicom_id]


def test_a_row_without_scene_graph_or_picture_or_frontal_view_is_counted(tmp_path: Path) -> None:
    films = imagenomes.made(5)
    films[0].graph = False
    films[1].picture = False
    films[2].view = "LATERAL"
    films[3].objects = []
    found = collected(tmp_path, films)
    assert [film.id for film in found.films] == [films[4].dicom_id]
    expected = (Reason.NO_GRAPH, Reason.NO_IMAGE, Reason.NOT_FRONTAL, Reason.NO_REGION)
    assert [line.reason for line in found.left_out] == list(expected)
    assert [line.record for line in found.left_out] == [film.dicom_id for film in films[:4]]


def test_a_damaged_scene_graph_and_one_in_no_split_are_counted(tmp_path: Path) -> None:
    films = imagenomes.made(3)
    imagenomes.write(tmp_path / "data", films)
    graphs = tmp_path / "data/silver_dataset/scene_graph"
    (graphs / f"{films[0].dicom_id}_SceneGraph.json").write_text("{")
    (graphs / f"{films[1].dicom_id}_SceneGraph.json").write_text('{"objects": [1]}')
    (graphs / "ffff_SceneGraph.json").write_text("{}")
    found = read(tmp_path / "data", imagenomes.draw(tmp_path / "images", films))
    assert found.skipped == {Reason.GRAPH: 2, Reason.NO_SPLIT: 1}


def test_an_image_in_two_splits_is_taken_once(tmp_path: Path) -> None:
    films = imagenomes.made(2)
    again = Made(films[0].number, "test", films[0].pixels, films[0].objects)
    found = collected(tmp_path, [*films, again])
    assert [film.split for film in found.films] == [TRAIN, TRAIN]
    assert lines(found, Reason.DUPLICATE) == [films[0].dicom_id]


def test_gold_images_have_their_gold_boxes_and_a_split_of_their_own(tmp_path: Path) -> None:
    films = imagenomes.made(5, ("train", "avoid", "avoid", "valid", "test"))
    found = collected(tmp_path, films, gold=films[1:2])
    by_id = {film.id: film for film in found.films}
    assert by_id[films[1].dicom_id].split == GOLD
    silver = films[1].box("right lung")["original_y1"]
    assert by_id[films[1].dicom_id].listed[index("right lung")].y1 == silver + 2
    assert lines(found, Reason.AVOIDED) == [films[2].dicom_id]
    assert {film.split for film in found.films} == {TRAIN, HELD, TEST, GOLD}


def test_an_avoided_image_leaves_train_and_valid_and_stays_in_test(tmp_path: Path) -> None:
    films = imagenomes.made(4, ("train", "valid", "test", "train"))
    avoided = [Made(film.number, "avoid", film.pixels, film.objects) for film in films[:3]]
    imagenomes.write(tmp_path / "data", [*films, *avoided])
    found = read(tmp_path / "data", imagenomes.draw(tmp_path / "images", films))
    assert [film.id for film in found.films] == [films[3].dicom_id, films[2].dicom_id]
    assert found.skipped == {Reason.AVOIDED: 2}


def test_findings_are_what_each_region_is_said_to_show(tmp_path: Path) -> None:
    films = imagenomes.made(2)
    films[0].attributes = [
        said("right lung", ["anatomicalfinding|yes|lung opacity", "nlp|yes|abnormal"], ["disease|yes|pneumonia"]),
        said("left lung", ["anatomicalfinding|no|pneumothorax", "nlp|yes|normal"]),
        said("spine", ["nlp|yes|normal"]),
        said("trachea", ["tubesandlines|yes|endotracheal tube"]),
        said("left knee", ["anatomicalfinding|yes|fracture"]),
    ]
    found = collected(tmp_path, films).films
    assert found[0].findings == {
        index("right lung"): {"lung opacity", "pneumonia"},
        index("left lung"): frozenset(),
        index("spine"): frozenset(),
    }
    assert found[1].findings is None


def test_of_phrases_that_contradict_each_other_the_last_wins(tmp_path: Path) -> None:
    films = imagenomes.made(1)
    yes, no = ["anatomicalfinding|yes|atelectasis"], ["anatomicalfinding|no|atelectasis"]
    films[0].attributes = [said("right lung", yes, no), said("left lung", no, yes)]
    film, _ = _only(collected(tmp_path, films))
    assert film.findings == {index("right lung"): frozenset(), index("left lung"): {"atelectasis"}}


def test_a_path_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    films = imagenomes.made(1)
    data, images = imagenomes.write(tmp_path / "data", films), imagenomes.draw(tmp_path / "images", films)
    table = data / "silver_dataset/splits/train.csv"
    table.write_text(table.read_text().replace("files/", "../images/files/"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingDataError, match="image missing: 1"):
        read(data, tmp_path / "empty")
    assert images.exists()


def test_a_folder_without_scene_graphs_or_splits_is_said(tmp_path: Path) -> None:
    films = imagenomes.made(1)
    imagenomes.write(tmp_path / "a", films)
    for name in ("train", "valid", "test"):
        (tmp_path / f"a/silver_dataset/splits/{name}.csv").unlink()
    with pytest.raises(TrainingDataError, match="no split table"):
        read(tmp_path / "a")
    films[0].graph = False
    with pytest.raises(TrainingDataError, match="no scene graphs"):
        read(imagenomes.write(tmp_path / "b", films))
    (tmp_path / "b/silver_dataset/scene_graph").rmdir()
    with pytest.raises(TrainingDataError, match="no scene graphs"):
        read(tmp_path / "b")
    (tmp_path / "b/silver_dataset/splits/train.csv").write_text("subject_id\n1\n")
    with pytest.raises(TrainingDataError, match=r"train\.csv has no column dicom_id"):
        read(tmp_path / "b")


def test_pictures_are_opened_when_asked_for(tmp_path: Path) -> None:
    films = imagenomes.made(2)
    film = collected(tmp_path, films).films[0]
    film.path.write_bytes(b"gone bad")
    with pytest.raises(ImageError, match=r"no readable picture"):
        _ = film.image


def test_reading_reports_its_progress(tmp_path: Path) -> None:
    films = imagenomes.made(3)
    imagenomes.write(tmp_path / "data", films)
    seen: list[tuple[str, int, int]] = []
    read(
        tmp_path / "data",
        imagenomes.draw(tmp_path / "images", films),
        report=lambda stage, done, total, _: seen.append((stage, done, total)),
    )
    assert seen == [("scene graphs", 3, 3)]


def _only(collection: Collection):  # type: ignore[no-untyped-def]
    assert len(collection.films) == 1
    return collection.films[0], collection
