"""NIfTI files, packed and unpacked so that other threads go on meanwhile.

Nibabel packs and unpacks a file in thousands of small pieces, each of which waits for Python's lock: beside
a busy thread that takes several times as long. A file of moderate size is packed or unpacked in one call
instead. Large ones are left to nibabel, since one call holds packed and unpacked content at the same time.
"""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

AT_ONCE_BYTES = 32 * 2**20  # unpacked: twice a straightened heatmap
LENGTH_BYTES = 4            # with which gzip ends: of the unpacked content
NIFTI_1 = {(348).to_bytes(4, order) for order in ("little", "big")}  # how such a file begins
LEVEL = 1                   # of packing, as nibabel's own


def load_image(path: str | Path) -> Any:
    """Load a NIfTI file; what is wrong with it raises whatever nibabel, gzip or zlib raise."""
    path = Path(path)
    if path.name.endswith(".gz") and unpacked_bytes(path) <= AT_ONCE_BYTES:
        content = gzip.decompress(path.read_bytes())
        if content[:4] in NIFTI_1:
            return nib.Nifti1Image.from_bytes(content)
    return nib.load(path)


def unpacked_bytes(path: Path) -> int:
    """Return how much a gzip file of one member holds, as it says itself; at least what it takes packed."""
    packed = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(packed - LENGTH_BYTES, 0))
        return max(packed, int.from_bytes(file.read(LENGTH_BYTES), "little"))


def save_image(image: nib.Nifti1Image, path: str | Path) -> None:
    """Save an image; the bytes are those that `nibabel.save` writes."""
    path = Path(path)
    if not path.name.endswith(".gz") or np.asanyarray(image.dataobj).nbytes > AT_ONCE_BYTES:
        nib.save(image, path)
        return
    with path.open("wb") as file, gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
        packed.write(image.to_bytes())
