"""The slices of many cases: found in a store on disk, or cut into it, or kept nowhere."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from data.aligned_dataset import VertebraSlices
from data.slice_files import SliceCutter, StoreError, make_store, map_slices, write_slices
from util.errors import InputError
from util.paths import file_version
from util.wording import counted

FEW_CASES = 24  # are cut in threads, in the time that further processes would take to start

Item = TypeVar("Item")
Result = TypeVar("Result")


class CasesRead(NamedTuple):
    """What became of cases."""

    vertebrae: dict[str, VertebraSlices]
    problems: dict[str, str]  # of the other cases


class CutPerDraw:
    """Images of a vertebra that are kept nowhere: its volumes are read again for every slice.

    Args:
        cutter: what they are cut from, and how.
        case: names the vertebra.
        count: its slices.
    """

    nbytes = 0

    def __init__(self, cutter: SliceCutter, case: str, count: int) -> None:
        self.cutter, self.case, self.count = cutter, case, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> np.ndarray:
        """Return one slice, (K, R, C) uint8."""
        return self.cutter.cut(self.case).images[place]


def read_unstored(cases: Sequence[str], cutter: SliceCutter, jobs: int) -> CasesRead:
    """Check that cases can be cut, in threads, and keep all but their images."""
    cut = partial(_attempt, partial(_cut_and_drop, cutter))
    outcomes = dict(zip(cases, _in_parallel(ThreadPoolExecutor(jobs), cut, cases, "read"), strict=True))
    return CasesRead({case: outcome for case, outcome in outcomes.items() if not isinstance(outcome, str)},
                     {case: outcome for case, outcome in outcomes.items() if isinstance(outcome, str)})


def read_stored(cases: Sequence[str], cutter: SliceCutter, folder: Path, jobs: int) -> CasesRead:
    """Map the slices of cases into memory; what the store lacks is cut first. Says how many.

    A call that was interrupted is taken up by the next one. Several may run at the same time.

    Args:
        cases: names.
        cutter: what slices are cut from, and how.
        folder: the store.
        jobs: threads that look up, processes that cut.

    Raises:
        StoreError: the store cannot be written, or not be read back.
    """
    make_store(folder)
    look_up = partial(_attempt, partial(_look_up, cutter, folder))
    outcomes = _in_parallel(ThreadPoolExecutor(jobs), look_up, cases, "look up")
    looked_up = dict(zip(cases, outcomes, strict=True))
    problems = {case: outcome for case, outcome in looked_up.items() if isinstance(outcome, str)}
    files = {case: outcome[0] for case, outcome in looked_up.items() if not isinstance(outcome, str)}
    vertebrae = {case: outcome[1] for case, outcome in looked_up.items()
                 if not isinstance(outcome, str) and outcome[1] is not None}
    found = len(vertebrae)
    lacking = {case: file for case, file in files.items() if case not in vertebrae}
    problems |= _cut_all(cutter, lacking, jobs)
    vertebrae |= {case: _written(file, case) for case, file in lacking.items() if case not in problems}
    print(f"slices: {counted(found, 'case')} found in {folder}, {len(vertebrae) - found} cut"
          f"{_unused(folder, set(files.values()))}")
    return CasesRead(vertebrae, problems)


def _attempt(work: Callable[[str], Result], case: str) -> Result | str:
    """Do one case; return what is wrong with it. What is wrong with the store is raised."""
    try:
        return work(case)
    except StoreError:
        raise
    except InputError as error:
        return str(error)


def _cut_and_drop(cutter: SliceCutter, case: str) -> VertebraSlices:
    """Return a vertebra whose images are cut anew for each draw."""
    vertebra = cutter.cut(case)
    return replace(vertebra, images=CutPerDraw(cutter, case, len(vertebra.images)))


def _look_up(cutter: SliceCutter, folder: Path, case: str) -> tuple[Path, VertebraSlices | None]:
    """Return the file that a case's slices belong in, and its slices if they are there."""
    file = cutter.file(folder, case)
    return file, map_slices(file, case)


def _cut_all(cutter: SliceCutter, files: Mapping[str, Path], jobs: int) -> dict[str, str]:
    """Cut cases into their files, and return what is wrong with those that could not be cut."""
    few = jobs == 1 or len(files) <= FEW_CASES
    pool = ThreadPoolExecutor(jobs) if few else _processes(min(jobs, len(files)))
    try:
        outcomes = _in_parallel(pool, partial(_cut_and_write, cutter), list(files.items()), "cut")
    except BrokenProcessPool as error:
        raise StoreError(f"--jobs {jobs}: expected processes that cut slices, found that one died (of memory "
                         f"most often); run again with fewer") from error
    return {case: outcome for case, outcome in zip(files, outcomes, strict=True) if outcome}


def _cut_and_write(cutter: SliceCutter, work: tuple[str, Path]) -> str | None:
    """Cut a case into its file; return what is wrong with the case, if anything."""
    case, file = work
    vertebra = _attempt(cutter.cut, case)
    if isinstance(vertebra, str):
        return vertebra
    if cutter.file(file.parent, case) != file:
        return (f"case '{case}': expected volumes that stay as they are while they are read, found that they "
                f"changed; run again")
    write_slices(file, vertebra)
    return None


def _written(file: Path, case: str) -> VertebraSlices:
    """Map slices that have just been cut."""
    vertebra = map_slices(file, case)
    if vertebra is None:
        raise StoreError(f"{file}: expected the slices that were just written, found none, or damaged ones; "
                         f"let nobody delete from --cache_dir while slices are cut, and run again")
    return vertebra


def _processes(count: int) -> ProcessPoolExecutor:
    """Return new processes, not forks: a forked copy of a threaded library can hang."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def _in_parallel(pool: Executor, work: Callable[[Item], Result], items: Sequence[Item],
                 title: str) -> list[Result]:
    """Do work in a pool, which is closed then, under a progress bar; results in the order of the items."""
    from tqdm import tqdm

    with pool:
        return list(tqdm(pool.map(work, items), total=len(items), desc=title, unit="case",
                         disable=None if items else True))


def _unused(folder: Path, files: Set[Path]) -> str:
    """Say how much of a store these files are not, if anything; others may add to it or delete meanwhile."""
    rest = sum(max(file_version(path).size, 0) for path in folder.iterdir() if path not in files)
    if not rest:
        return ""
    return (f"; {rest / 1e6:.0f} MB of other volumes or flags lie there too (deleting the folder is always "
            f"safe: what is missing is cut again)")
