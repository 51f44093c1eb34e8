"""Settings of all tests, and what several test files share."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from box_spine import BoxCohort, write_box_cohort
from hypothesis import settings

if TYPE_CHECKING:
    from data.slice_cache import SliceStore

# Small networks are slower on several threads, which wait for each other and for a busy core. PyTorch reads
# this when it is imported; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("unhurried", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantom patients, one for each split: `raw/` and `cohort.json`. Not to be changed."""
    from phantom.make_cohort import main

    folder = tmp_path_factory.mktemp("phantoms")
    assert main(["--out", str(folder / "raw"), "--cohort", str(folder / "cohort.json"), "--patients", "3",
                 "--seed", "11", "--fracture_rate", "0.3"]) == 0
    return folder


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """Three patients to learn from, one to watch, one held out; one target each. Not to be changed."""
    return write_box_cohort(tmp_path_factory.mktemp("boxes"), patients=5, labels=(20,))


@pytest.fixture(scope="session")
def store(boxes: BoxCohort) -> "SliceStore":
    """The vertebrae to learn from."""
    from small_training import parse

    from data.integrity import read_cohort_slices

    return read_cohort_slices(parse(boxes)).train


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """Two patients to learn from, one to watch, one held out; two targets each. Not to be changed."""
    return write_box_cohort(tmp_path_factory.mktemp("pairs"), patients=4, labels=(19, 20))


@pytest.fixture
def own_pairs(pairs: BoxCohort, tmp_path: Path) -> BoxCohort:
    """A copy of the pairs, to be changed; without a store of slices."""
    folder = tmp_path / "own"
    shutil.copytree(pairs.path.parent, folder, ignore=shutil.ignore_patterns("slices"))
    return replace(pairs, dataroot=folder / "straightened", heatmaps=folder / "heatmap",
                   path=folder / "cohort.json")
