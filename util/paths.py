"""Where each file lies below its root, and how a file is written so that none is ever half there."""

import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from util.errors import NO_ROOM, InputError


def raw_ct(root: str | Path, patient: str) -> Path:
    """CT in HU as the user brought it."""
    return Path(root) / patient / f"{patient}.nii.gz"


def raw_mask(root: str | Path, patient: str) -> Path:
    """Vertebra mask as the user brought it."""
    return Path(root) / patient / f"{patient}_msk.nii.gz"


def raw_centroids(root: str | Path, patient: str) -> Path:
    """Centroid of each vertebral body."""
    return Path(root) / patient / f"{patient}.json"


def straightened_ct(root: str | Path, case: str) -> Path:
    """Straightened CT of a case."""
    return Path(root) / "CT" / f"{case}.nii.gz"


def straightened_label(root: str | Path, case: str) -> Path:
    """Straightened vertebral bodies of a case."""
    return Path(root) / "label" / f"{case}.nii.gz"


def geometry_path(root: str | Path, patient: str) -> Path:
    """Curve and frames that carry a patient's straightened volumes back to the scanner."""
    return Path(root) / "geometry" / f"{patient}.npz"


def heatmap_path(root: str | Path, case: str) -> Path:
    """Evidence of fracture, the shape of the straightened CT."""
    return Path(root) / f"{case}.nii.gz"


def heatmap_record(root: str | Path, case: str) -> Path:
    """What a case's heatmap was made of, see `util.origin_records`."""
    return Path(root) / "records" / f"{case}.json"


def fake_ct(root: str | Path, case: str) -> Path:
    """Synthesized pseudo-healthy CT of a case."""
    return Path(root) / "CT_fake" / f"{case}.nii.gz"


def fake_label(root: str | Path, case: str) -> Path:
    """Vertebral bodies of the synthesized CT."""
    return Path(root) / "label_fake" / f"{case}.nii.gz"


def is_up_to_date(made: Iterable[Path], sources: Iterable[Path]) -> bool:
    """Tell whether all that was made is there, and none of it older than any source that is there."""
    made = list(made)
    if not all(path.is_file() for path in made):
        return False
    oldest = min(path.stat().st_mtime for path in made)
    return all(source.stat().st_mtime <= oldest for source in sources if source.is_file())


class FileVersion(NamedTuple):
    """What tells a file as it is from what it was or will be."""

    path: Path       # absolute
    size: int        # bytes; -1 where there is no file
    changed_ns: int  # since the epoch


def file_version(path: str | Path) -> FileVersion:
    """Return a file's version, the key by which to keep what was read of it; it may vanish meanwhile."""
    absolute = Path(path).absolute()
    try:
        status = absolute.stat()
        if stat.S_ISREG(status.st_mode):
            return FileVersion(absolute, status.st_size, status.st_mtime_ns)
    except OSError:
        pass
    return FileVersion(absolute, -1, 0)


def file_digest(path: Path) -> str:
    """Return the SHA-256 digest of a file's bytes, in hexadecimal digits.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: expected a file to read, found '{error.strerror}'; "
                         f"check the path and its permissions") from error


def visible(folder: str | Path, pattern: str) -> list[Path]:
    """Return what fits a pattern below a folder, sorted; what is hidden is left out.

    A write that was killed leaves its temporary file, `.<digits>.<name>`, which a pattern of names fits too.
    """
    return sorted(path for path in Path(folder).glob(pattern)
                  if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def set_aside(path: Path) -> Path:
    """Rename a file or folder to the first free name with a number, before a file's ending; return that."""
    stem, ending = (path.stem, path.suffix) if path.is_file() else (path.name, "")
    names = (path.with_name(f"{stem}.{number}{ending}") for number in count(1))
    return path.rename(next(name for name in names if not name.exists()))


def make_folder(path: str | Path) -> Path:
    """Create a folder and return it.

    Raises:
        InputError: it cannot be created or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to write to, found '{error.strerror}'; "
                         f"choose another or change its permissions") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: expected a folder to write to, found a read-only one; "
                         f"choose another or change its permissions")
    return folder


@contextmanager
def told_if_full(path: Path) -> Iterator[None]:
    """Name the file in the error that tells of a full disk: writing names none, copying names both."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and (error.filename is None or error.filename2 is not None):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place on success, remove it on failure.

    The temporary name keeps every suffix of `path` (`.nii.gz`), since writers choose a format by it.
    """
    target = Path(path)
    make_folder(target.parent)
    temporary = target.parent / f".{uuid.uuid4().hex}.{target.name}"
    try:
        with told_if_full(target):
            yield temporary
            _rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _rename(source: Path, target: Path) -> None:
    """Move a file into place, once it is on the disk: else a power cut could leave an empty one of that name.

    Raises:
        InputError: a folder of that name is in the way, or the like.
    """
    try:
        with source.open("rb") as file:
            os.fsync(file.fileno())
        source.replace(target)
    except OSError as error:
        if error.errno in NO_ROOM:  # some disks tell only now
            raise
        raise InputError(f"{target}: expected a file to write, found '{error.strerror}'; "
                         f"choose another name") from error


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(content), encoding="utf-8")


def json_text(content: Any) -> str:
    """Return the text of a JSON file as `write_json` writes it."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_object_of)
    except OSError as error:
        raise InputError(f"{path}: expected a JSON file, found '{error.strerror}'; "
                         f"check the path") from error
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, found a syntax error ({error}); "
                         f"correct the file") from error


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, which must name each key once: of two grades of a case, which one counts?"""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"key '{twice}' twice")
    return content
