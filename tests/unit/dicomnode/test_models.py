"""Model sets under the root: they go when no generation is of them any more."""

from dataclasses import replace

import pytest

from dicomnode import models
from storage.records import Model
from storage.store import Store

OLD = Model("old", "models/old", 4, ("anatomy",), ("lung",))


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "root") as opened:
        for name in ("old", "new", "by hand"):
            (opened.models / name).mkdir()
            (opened.models / name / "encoder.json").write_text("{}")
        yield opened


def folders(store):
    return sorted(path.name for path in store.models.iterdir())


def test_one_that_a_generation_is_of_stays(store):
    store.generations.ensure_live(OLD)
    models.remove(store, OLD)
    assert folders(store) == ["by hand", "new", "old"]


def test_one_that_no_generation_is_of_goes_and_nothing_else(store):
    store.generations.ensure_live(replace(OLD, id="new", path="models/new"))
    models.remove(store, OLD)
    models.remove(store, OLD)
    assert folders(store) == ["by hand", "new"]


def test_nothing_outside_the_folder_of_models_goes(store):
    models.remove(store, replace(OLD, path="models/by hand/.."))
    models.remove(store, replace(OLD, path="files"))
    assert folders(store) == ["by hand", "new", "old"]
    assert (store.root / "files").is_dir()
