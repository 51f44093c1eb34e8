"""Records of what a result was made of, by which a stage tells that it must be made anew for anything else.

A record lies beside the results of a case. `recipe` is a digest of what makes the results of all cases alike,
weights and method; `made_of` one of what else decides a case's own.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from util.errors import InputError
from util.paths import FileVersion, file_digest, file_version, read_json, write_json

DIGITS = 16  # of a digest that is kept


def recipe_of(method: str, weights: Iterable[Path]) -> str:
    """Return the digest of a method and of the content of its weights' files."""
    return _recipe(method, tuple(map(file_version, weights)))


@lru_cache(maxsize=1)
def _recipe(method: str, versions: tuple[FileVersion, ...]) -> str:
    """Return the digest; a process asks for it with every case."""
    digest = hashlib.sha256(method.encode())
    for version in versions:
        digest.update(version.path.read_bytes())
    return digest.hexdigest()[:DIGITS]


def named_weights(weights: Iterable[Path]) -> list[dict[str, str]]:
    """Return each file of weights by its name, below its folder's, and its digest, for people to read."""
    return list(_named(tuple(map(file_version, weights))))


@lru_cache(maxsize=1)
def _named(versions: tuple[FileVersion, ...]) -> tuple[dict[str, str], ...]:
    """Name these versions; a process asks for it with every case."""
    paths = [version.path for version in versions]
    return tuple({"file": f"{path.parent.name}/{path.name}", "sha256": file_digest(path)} for path in paths)


def ingredients_of(sources: Iterable[Path], *decided: Any) -> str:
    """Return the digest of a case's files as they are now, and of what else decides its result, as JSON."""
    versions = [file_version(path)[1:] for path in sources]  # the same files may be mounted elsewhere
    content = json.dumps([*decided, versions])
    return hashlib.sha256(content.encode()).hexdigest()[:DIGITS]


@contextmanager
def recorded(record: Path, recipe: str, made_of: str, **more: Any) -> Iterator[None]:
    """Write a record once the results are written.

    That of what lay there before goes first, lest it should vouch for results that it does not know.
    """
    record.unlink(missing_ok=True)
    yield
    write_json(record, {"recipe": recipe, "made_of": made_of} | more)


def is_made_of(record: Path, recipe: str, made_of: str) -> bool:
    """Tell whether there is a whole record, and it says that its results were made by this and of these."""
    try:
        content = read_json(record)
        return bool((content["recipe"], content["made_of"]) == (recipe, made_of))
    except (InputError, TypeError, KeyError):
        return False
