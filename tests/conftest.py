"""Settings of all tests, and what several test files share."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from box_spine import BoxCohort, write_box_cohort
from hypothesis import settings

if TYPE_CHECKING:
    from data.slice_cache import SliceStore

settings.register_profile("unhurried", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("unhurried")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, which wait for each other and for a busy core."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
