"""The slices of vertebrae on disk: each cut once from its volumes, then mapped into memory.

A file is named after its case and a key: the digest of the volumes' bytes and of all else that decides the
cut. So a changed volume, cohort or flag leads to another file, nothing is ever overwritten by something else,
and runs may share a folder and fill it at the same time. Files that no run needs any more are not deleted;
the folder may be, at any time: what is missing is cut again, and a run that has mapped a file keeps it.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.aligned_dataset import VertebraSlices, cut_vertebra, load_case
from util.errors import InputError
from util.paths import (
    atomic_path,
    file_digest,
    heatmap_path,
    make_folder,
    straightened_ct,
    straightened_label,
)
from util.vertebrae import ANATOMICAL_ORDER, split_case

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1        # raise it whenever the same volumes and flags give other slices or measures than before
DIGEST = "sha256"
ARRAYS = ("images", "distance", "measures_mm", "extent")  # of a file


class StoreError(InputError):
    """A mistake about the store itself, which no other case would escape."""


@dataclass(frozen=True)
class SliceCutter:
    """What slices are cut from, and how.

    Attributes:
        dataroot: holds CT/ and label/.
        heatmaps: folder of heatmaps; None to do without.
        plane: `sagittal` or `coronal`.
        crop_cols: central columns that are kept.
        fractured: labels by patient that do not count as healthy neighbours.
    """

    dataroot: Path
    heatmaps: Path | None
    plane: str
    crop_cols: int
    fractured: Mapping[str, Collection[int]]

    def cut(self, case: str) -> VertebraSlices:
        """Read a case and keep its slices.

        Raises:
            InputError: as `load_case` and `cut_vertebra`.
        """
        volumes = load_case(self.dataroot, case, self.heatmaps, self.crop_cols)
        return cut_vertebra(case, volumes, self.healthy(case), self.plane)

    def key(self, case: str) -> str:
        """Return the digest of all that decides a case's slices.

        Raises:
            InputError: a volume cannot be read.
        """
        decided = [FORMAT, case, self.plane, self.crop_cols, sorted(self.healthy(case))]
        decided += [file_digest(path) for path in self.volumes(case)]
        return hashlib.new(DIGEST, json.dumps(decided).encode()).hexdigest()[:32]

    def file(self, folder: Path, case: str) -> Path:
        """Return where a case's slices are kept in a folder."""
        return folder / f"{case}.{self.plane}.{self.key(case)}.safetensors"

    def volumes(self, case: str) -> list[Path]:
        """Return the files of a case; without heatmaps one less, which tells the key that there are none."""
        paths = [straightened_ct(self.dataroot, case), straightened_label(self.dataroot, case)]
        return paths if self.heatmaps is None else [*paths, heatmap_path(self.heatmaps, case)]

    def healthy(self, case: str) -> set[int]:
        """Return the labels that count as healthy in a case's patient, whether they are there or not."""
        return set(ANATOMICAL_ORDER) - set(self.fractured.get(split_case(case)[0], ()))


def make_store(folder: Path) -> None:
    """Create the folder of a store.

    Raises:
        StoreError: it cannot be created or written.
    """
    try:
        make_folder(folder)
    except InputError as error:
        raise StoreError(f"--cache_dir {error}, or keep nothing on disk by --cache none") from error


def write_slices(path: Path, vertebra: VertebraSlices) -> None:
    """Write the slices of a vertebra atomically; same content, same bytes.

    Raises:
        StoreError: the folder cannot be written, or the disk is full.
    """
    from safetensors.numpy import save

    measures_mm = np.empty(0) if vertebra.measures_mm is None else vertebra.measures_mm
    # safetensors writes memory as it lies there; stacked slices of a volume do not lie in C order.
    extent = np.array([vertebra.top, vertebra.bottom])
    arrays = dict(zip(ARRAYS, (np.ascontiguousarray(vertebra.images), vertebra.distance, measures_mm, extent),
                      strict=True))
    content = save(arrays, {DIGEST: _digest(arrays)})
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise StoreError(f"--cache_dir {path.parent}: expected to write {len(content) / 1e6:.0f} MB for case "
                         f"'{vertebra.case}', found '{error.strerror}'; make room, choose another folder, or "
                         f"keep nothing on disk by --cache none") from error


def map_slices(path: Path, case: str) -> VertebraSlices | None:
    """Map the slices of a case into memory.

    Returns:
        The vertebra, its images backed by the file, not read into the process; None where the file is
        missing or damaged.

    Raises:
        StoreError: the system maps no more files.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in ARRAYS}
            digest = (file.metadata() or {}).get(DIGEST)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, RuntimeError) as error:
        if "Cannot allocate memory" in str(error):
            raise StoreError(f"{path}: expected to map the file into memory, found that the system maps no "
                             f"more; raise vm.max_map_count (sysctl), or use --cache none") from error
        return None
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if digest != _digest(arrays):
        return None
    top, bottom = arrays["extent"].tolist()
    measures_mm = arrays["measures_mm"].copy() if arrays["measures_mm"].size else None
    # Copies, since the smallest view keeps the whole file mapped when the images are no longer wanted.
    return VertebraSlices(case, arrays["images"], arrays["distance"].copy(), top, bottom, measures_mm)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the digest of arrays' types, shapes and bytes."""
    digest = hashlib.new(DIGEST)
    for array in arrays.values():
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
