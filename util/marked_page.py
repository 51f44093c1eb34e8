"""Pages of the documentation whose tables a command writes, each between two markers."""

import re
from collections.abc import Mapping
from pathlib import Path

from util.errors import InputError
from util.paths import atomic_path

MARKER = re.compile(r"(<!-- (\w+): written by [\w./]+ -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_text(text: str, tables: Mapping[str, str]) -> str:
    """Return a page with its tables written anew; the rest stays as it is.

    Raises:
        InputError: the page has a marker of a name that is not among the tables.
    """
    def written(match: re.Match[str]) -> str:
        name = match.group(2)
        if name not in tables:
            raise InputError(f"marker '{name}': expected one of {', '.join(tables)}; mend the page")
        return f"{match.group(1)}{tables[name].rstrip()}\n{match.group(3)}"

    return MARKER.sub(written, text)


def fill_page(path: Path, tables: Mapping[str, str]) -> None:
    """Write the tables of a page anew; a page that is not there is left alone.

    Raises:
        InputError: as `fill_text`.
    """
    if path.is_file():
        text = fill_text(path.read_text(encoding="utf-8"), tables)
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
