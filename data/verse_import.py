"""Bringing scans of a VerSe tree into the raw layout, and the cohort that they make."""

import gzip
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from data.grade_tables import GradeTable
from data.verse_tree import Scan
from util.errors import InputError
from util.paths import atomic_path, raw_centroids, raw_ct, raw_mask, read_json
from util.vertebrae import SPLITS, Cohort, split_case
from util.volume import present_labels, read_ct_and_mask, read_mask
from util.wording import vertebrae

TRAIN_SHARE, TEST_SHARE = 0.6, 0.2  # of the patients, where the grades bring no splits; the rest is held out


def import_scan(out: str | Path, scans: Mapping[str, Scan], link: bool, name: str) -> str | None:
    """Copy or link one scan into the raw layout; return what is missing.

    Raises:
        InputError: a file is damaged or holds something else, or CT and mask lie on different grids; then
            nothing of the scan is imported.
    """
    scan = scans[name]
    if scan.centroids is not None:
        located_labels(scan.centroids)
    if scan.ct is None:
        read_mask(scan.mask)
    else:
        read_ct_and_mask(scan.ct, scan.mask)
        bring(scan.ct, raw_ct(out, name), link)
    bring(scan.mask, raw_mask(out, name), link)
    if scan.centroids is not None:
        bring(scan.centroids, raw_centroids(out, name), link)
    return None if scan.ct is not None else "mask without CT"


def is_imported(out: str | Path, scans: Mapping[str, Scan], name: str) -> bool:
    """Tell whether all files of a scan are in the raw layout."""
    scan = scans[name]
    return (raw_mask(out, name).is_file() and (scan.ct is None or raw_ct(out, name).is_file())
            and (scan.centroids is None or raw_centroids(out, name).is_file()))


def bring(source: Path, target: Path, link: bool) -> None:
    """Copy a file, or link it where the disk allows it; an unpacked NIfTI is packed."""
    with atomic_path(target) as temporary:
        if source.suffix == ".nii":
            with source.open("rb") as unpacked, gzip.open(temporary, "wb", compresslevel=1) as packed:
                shutil.copyfileobj(unpacked, packed)
            return
        if link:
            with suppress(OSError):  # another disk, or one without hard links: copied below
                os.link(source.resolve(), temporary)
                return
        shutil.copyfile(source, temporary)


def build_cohort(path: str | Path, out: str | Path, table: GradeTable, scans: Mapping[str, Scan],
                 seed: int) -> tuple[Cohort, list[str]]:
    """Return the cohort of graded vertebrae that are there, and a line for what is not.

    Raises:
        InputError: no graded vertebra is there.
    """
    by_patient: dict[str, list[str]] = {}
    for case in table.grades:
        by_patient.setdefault(split_case(case)[0], []).append(case)
    kept: list[str] = []
    missing: dict[str, list[str]] = {}
    for patient, cases in by_patient.items():
        present, reason = usable_labels(out, patient, scans.get(patient))
        there = [case for case in cases if split_case(case)[1] in present]
        kept += there
        if len(there) < len(cases):
            missing.setdefault(reason, []).extend([case for case in cases if case not in there] if there
                                                  else [f"{patient} ({vertebrae(len(cases))})"])
    lines = [f"{', '.join(names)}: {reason}" for reason, names in missing.items()]
    if not kept:
        raise InputError(f"expected graded vertebrae with CT and mask, found none of {len(table.grades)} "
                         f"({'; '.join(f'{len(names)}: {reason}' for reason, names in missing.items())}); "
                         f"check --verse_root and --grades")
    splits = table.splits or draw_splits(kept, seed)
    content = {split: {case: table.grades[case] for case in kept if splits.get(case) == split}
               for split in SPLITS}
    return Cohort(Path(path), content, {"raw": str(out)}), lines


def usable_labels(out: str | Path, patient: str, scan: Scan | None) -> tuple[set[int], str]:
    """Return which vertebrae of a patient can be used, and why others cannot."""
    if scan is None:
        return set(), "no mask in the tree"
    if scan.ct is None:
        return set(), "mask without CT"
    if not raw_ct(out, patient).is_file():
        return set(), "not imported"
    try:
        labels = set(present_labels(read_mask(raw_mask(out, patient)).array))
        if not raw_centroids(out, patient).is_file():
            return labels, "not in the mask"
        return labels & located_labels(raw_centroids(out, patient)), "not in mask and centroids"
    except InputError as error:
        return set(), str(error)


def located_labels(path: Path) -> set[int]:
    """Return the labels of a centroid file.

    Raises:
        InputError: it is no list of centroids.
    """
    entries = read_json(path)
    labels = [entry.get("label", 0) for entry in entries if isinstance(entry, dict)]
    if not isinstance(entries, list) or len(labels) < len(entries) or not all(isinstance(label, int)
                                                                              for label in labels):
        raise InputError(f"{path}: expected a list of centroids in VerSe's form, found another; "
                         f"download it again, or remove it")
    return set(labels)


def draw_splits(cases: Collection[str], seed: int) -> dict[str, str]:
    """Draw a split for every case, the same for all of a subject's scans."""
    subject_of = {case: split_case(case)[0].partition("_")[0] for case in cases}
    subjects = sorted(set(subject_of.values()))
    np.random.default_rng(seed).shuffle(subjects)
    bounds = np.array([TRAIN_SHARE, TRAIN_SHARE + TEST_SHARE]) * len(subjects)
    place = {subject: SPLITS[int(np.searchsorted(bounds, rank, side="right"))]
             for rank, subject in enumerate(subjects)}
    return {case: place[subject] for case, subject in subject_of.items()}
