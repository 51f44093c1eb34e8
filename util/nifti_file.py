"""NIfTI files, packed and unpacked so that other threads go on meanwhile.

Nibabel packs and unpacks a file in thousands of small pieces, each of which waits for Python's lock: beside
a busy thread that takes several times as long. A file of moderate size is packed or unpacked in one call
instead. Large ones are left to nibabel, since one call holds packed and unpacked content at the same time.
"""

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

AT_ONCE_BYTES = 32 * 2**20  # unpacked: twice a straightened heatmap
LENGTH_BYTES = 4            # with which gzip ends: of the unpacked content, modulo 2^32
HEADER_BYTES = 352          # before the voxels, as nibabel writes it
NIFTI_1 = {(348).to_bytes(4, order) for order in ("little", "big")}  # how such a file begins
LEVEL = 1                   # of packing, as nibabel's own


def load_image(path: str | Path) -> Any:
    """Load a NIfTI file; what is wrong with it raises whatever nibabel, gzip or zlib raise."""
    path = Path(path)
    if path.name.endswith(".gz") and unpacked_bytes(path) <= AT_ONCE_BYTES:
        content = gzip.decompress(path.read_bytes())
        if content[:4] in NIFTI_1:
            return nib.Nifti1Image.from_bytes(content)
    image = nib.load(path)
    if path.name.endswith(".gz") and stated_bytes(path) != _end(image) % 2**(8 * LENGTH_BYTES):
        _unpack_to_the_end(path)
    return image


def unpacked_bytes(path: Path) -> int:
    """Return how much a gzip file of one member holds, as it says itself; at least what it takes packed."""
    return max(path.stat().st_size, stated_bytes(path))


def stated_bytes(path: Path) -> int:
    """Return the last four bytes of a file, where gzip says how much it holds; a cut file says anything."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - LENGTH_BYTES, 0))
        return int.from_bytes(file.read(LENGTH_BYTES), "little")


def is_whole(path: Path, shape: Sequence[int], voxel_bytes: int = 1) -> bool:
    """Tell whether a volume that `save_image` wrote compressed is there to its end, without reading it."""
    return path.is_file() and stated_bytes(path) == HEADER_BYTES + math.prod(shape) * voxel_bytes


def _end(image: Any) -> int:
    """Return where the voxels of an image end in its unpacked file, in bytes."""
    return int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize


def _unpack_to_the_end(path: Path) -> None:
    """Read a gzip file beyond its last voxel, where nibabel stops; what is cut or damaged there raises."""
    with gzip.open(path) as file:
        while file.read(AT_ONCE_BYTES):
            pass


def save_image(image: nib.Nifti1Image, path: str | Path) -> None:
    """Save an image; the bytes are those that `nibabel.save` writes."""
    path = Path(path)
    if not path.name.endswith(".gz") or np.asanyarray(image.dataobj).nbytes > AT_ONCE_BYTES:
        nib.save(image, path)
        return
    with path.open("wb") as file, gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
        packed.write(image.to_bytes())
