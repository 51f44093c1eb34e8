"""The official VerSe tree: which scans it holds, and what belongs to each."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from util.errors import InputError
from util.paths import visible

NIFTI = (".nii.gz", ".nii")
# subject-based VerSe'19 and '20: <stem>_ct, <stem>_seg-vert_msk; the challenge's own: <stem>, <stem>_seg
MASK_ENDINGS = ("_seg-vert_msk", "_seg_vert_msk", "_msk", "_seg")
CENTROID_ENDINGS = ("_seg-subreg_ctd", "_seg-vb_ctd", "_seg-vert_ctd", "_ctd")
CT_ENDINGS = ("_ct", "")
ORIENTATION = re.compile(r"_dir-\w+?(?=_|$)")  # how the scan was reformatted, no part of its name


@dataclass(frozen=True)
class Scan:
    """One scan of the tree.

    Attributes:
        stem: common beginning of its file names, e.g. sub-verse401_split-verse253 or sub-gl003_dir-ax.
        name: the patient's name in the cohort.
        mask, ct, centroids: files; None where the tree has none.
    """

    stem: str
    name: str
    mask: Path
    ct: Path | None
    centroids: Path | None


def find_scans(root: str | Path, known: Collection[str] = ()) -> list[Scan]:
    """Find the scans of a VerSe tree by their masks.

    Args:
        root: of the tree; raw data and derivatives lie anywhere below.
        known: patient names of the grades; a scan takes its name from there where one fits.

    Raises:
        InputError: there is no mask.
    """
    volumes = _by_stem(path for ending in NIFTI for path in visible(root, f"**/*{ending}"))
    tables = _by_stem(visible(root, "**/*.json"))
    stems = _with_endings(volumes, MASK_ENDINGS)
    if not stems:
        raise InputError(f"--verse_root {root}: expected masks named *_seg-vert_msk.nii.gz, found none; "
                         f"give the folder that holds rawdata and derivatives")
    subjects = [stem.partition("_")[0] for stem in stems]
    cts, centroids = _with_endings(volumes, CT_ENDINGS), _with_endings(tables, CENTROID_ENDINGS)
    scans = []
    for stem, mask in sorted(stems.items()):
        alone = subjects.count(stem.partition("_")[0]) == 1
        ct = cts.get(stem)  # never the mask itself: that has an ending
        scans.append(Scan(stem, _name(stem, alone, known), mask, ct, centroids.get(stem)))
    return scans


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their name without its ending."""
    return {re.sub(r"\.(nii\.gz|nii|json)$", "", path.name): path for path in paths}


def _with_endings(files: dict[str, Path], endings: tuple[str, ...]) -> dict[str, Path]:
    """Return the files whose name has one of the endings, by what comes before; the first ending wins.

    Endings that end alike come longest first, so that none takes a part of another for the name.
    """
    found: dict[str, Path] = {}
    left = dict(files)
    for ending in endings:
        for name in [name for name in left if name.endswith(ending)]:
            found.setdefault(name.removesuffix(ending), left.pop(name))
    return found


def aliases(stem: str, alone: bool) -> list[str]:
    """Return the names under which tables may know a scan, the likeliest first.

    Args:
        stem: of the scan.
        alone: it is its subject's only one.
    """
    plain = ORIENTATION.sub("", stem)
    names = [plain, stem]
    if alone:
        names.append(stem.partition("_")[0])
    split = re.search(r"_split-([^_]+)", stem)
    if split:
        names.append(split.group(1))
    return list(dict.fromkeys(form for name in names for form in (name, name.removeprefix("sub-"),
                                                                  f"sub-{name.removeprefix('sub-')}")))


def _name(stem: str, alone: bool, known: Collection[str]) -> str:
    """Return a scan's name in the cohort."""
    names = aliases(stem, alone)
    fallback = stem.partition("_")[0] if alone else names[0]
    return next((name for name in names if name in known), fallback)
