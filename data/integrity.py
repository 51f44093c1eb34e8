"""The whole cohort is checked before an hour is spent on it, and every problem is listed, not the first."""

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data.aligned_dataset import MAKE_HEATMAPS
from data.slice_cache import SliceStore, choose_cache
from data.slice_files import SliceCutter
from data.slice_reading import read_stored, read_unstored
from data.straightened import STRAIGHTEN
from util.errors import InputError
from util.paths import heatmap_path, straightened_ct, straightened_label
from util.vertebrae import Cohort, read_cohort
from util.wording import counted, named


class CohortSlices(NamedTuple):
    """What training reads of a cohort."""

    train: SliceStore
    test: SliceStore
    status: int  # 1 if cases had to be left out, else 0


def read_cohort_slices(options: Namespace, device: str = "cpu") -> CohortSlices:
    """Check a cohort and read the healthy vertebrae of its splits `train` and `test`.

    A dry run reads every other case too, to check it.

    Args:
        options: flags of training.
        device: where batches of slices are wanted.

    Raises:
        InputError: nothing is left to learn from, or cases have problems, which are all printed, and
            --skip_bad_cases was not given.
    """
    cohort = read_cohort(options.cohort)
    heatmaps = options.heatmaps if options.attention == "heatmap" else None
    wanted = {split: healthy_cases(cohort, split, options.healthy_max_grade) for split in ("train", "test")}
    problems = missing_files(cohort, options.dataroot, heatmaps)
    cutter = SliceCutter(options.dataroot, heatmaps, options.plane, options.crop_cols,
                         cohort.fractured(options.healthy_max_grade))
    needed = [case for cases in wanted.values() for case in cases]
    # A dry run reads what later stages will read too: fractured vertebrae and the hold-out.
    sound = [case for case in (cohort.cases() if options.dry_run else needed) if case not in problems]
    cache = "none" if options.dry_run else options.cache  # a dry run writes nothing
    read = (read_unstored(sound, cutter, options.jobs) if cache == "none" else
            read_stored(sound, cutter, options.cache_dir, options.jobs))
    problems |= read.problems
    report_problems(cohort, problems, skip=options.skip_bad_cases)
    for split, cases in wanted.items():
        if not any(case in read.vertebrae for case in cases):
            raise InputError(f"{cohort.path}: expected sound healthy vertebrae in split '{split}', found "
                             f"none; mend the cases above")
    size = sum(vertebra.images.nbytes for vertebra in read.vertebrae.values())
    on_device = cache != "none" and choose_cache(cache, device, size) == "device"
    train, test = (SliceStore([read.vertebrae[case] for case in cases if case in read.vertebrae], device,
                              on_device=on_device) for cases in wanted.values())
    return CohortSlices(train, test, 1 if problems else 0)


def healthy_cases(cohort: Cohort, split: str, max_grade: int) -> list[str]:
    """Return the cases of a split that are graded `max_grade` or below.

    Raises:
        InputError: there is none.
    """
    chosen = [case for case in cohort.cases(split) if cohort.grades[case] <= max_grade]
    if not chosen:
        raise InputError(f"{cohort.path}: expected vertebrae of grade {max_grade} or below in split "
                         f"'{split}', found none among {len(cohort.cases(split))}; add healthy ones or "
                         f"raise --healthy_max_grade")
    return chosen


def missing_files(cohort: Cohort, dataroot: Path, heatmaps: Path | None) -> dict[str, str]:
    """Return, for each case of any split that lacks a file, what it lacks.

    Raises:
        InputError: not a single case has its straightened volumes, or its heatmap.
    """
    cases = cohort.cases()
    straighten = f"{STRAIGHTEN} --cohort {cohort.path} --out {dataroot}"  # says why a case cannot be made
    straightened = [case for case in cases if straightened_ct(dataroot, case).is_file()]
    if not straightened:
        raise InputError(f"--dataroot {dataroot}: expected CT/<case>.nii.gz for "
                         f"{counted(len(cases), 'case')} of {cohort.path}, found none; run: {straighten}, or "
                         f"point --dataroot elsewhere")
    if heatmaps is not None and not any(heatmap_path(heatmaps, case).is_file() for case in cases):
        raise InputError(f"--heatmaps {heatmaps}: expected <case>.nii.gz for {counted(len(cases), 'case')} "
                         f"of {cohort.path}, found none; run: {MAKE_HEATMAPS}, or do without by "
                         f"--attention none")
    problems = {}
    for case in cases:
        wanted: dict[str, tuple[Path, ...]] = {
            straighten: (straightened_ct(dataroot, case), straightened_label(dataroot, case))}
        if heatmaps is not None:
            wanted[MAKE_HEATMAPS] = (heatmap_path(heatmaps, case),)
        lacking = [_lacking(case, missing, command) for command, paths in wanted.items()
                   if (missing := [path for path in paths if not path.is_file()])]
        if lacking:
            problems[case] = "; ".join(lacking)
    return problems


def _lacking(case: str, missing: Sequence[Path], command: str) -> str:
    """Say which files a case lacks, and which command makes them."""
    return (f"{' and '.join(map(str, missing))}: expected {named(len(missing), 'a file', 'files')} of case "
            f"'{case}', found none; run: {command}")


def report_problems(cohort: Cohort, problems: dict[str, str], *, skip: bool) -> None:
    """Print every problem, one a line.

    Args:
        cohort: whose cases they are.
        problems: by case.
        skip: go on without those cases.

    Raises:
        InputError: there are problems and they may not be skipped.
    """
    for problem in _in_order(cohort.cases(), problems):
        print(f"problem: {problem}", file=sys.stderr)
    if problems and not skip:
        raise InputError(f"{cohort.path}: expected {counted(len(cohort.cases()), 'sound case')}, found "
                         f"{len(problems)} with the problems above; mend them, or train without them "
                         f"by --skip_bad_cases")


def _in_order(cases: Iterable[str], problems: dict[str, str]) -> list[str]:
    """Return the problems in the order of the cases."""
    return [problems[case] for case in cases if case in problems]
