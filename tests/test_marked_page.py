"""Pages whose tables a command writes."""

import pytest

from util.errors import InputError
from util.marked_page import fill_page, fill_text

PAGE = "# Head\n<!-- one: written by a/b.py -->\nold\nrows\n<!-- end -->\nprose\n"


def test_a_table_is_written_between_its_markers_and_the_rest_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    fill_page(page, {"one": "new\n", "unused": "x"})
    assert page.read_text() == PAGE.replace("old\nrows", "new")
    fill_page(page, {"one": "new\n"})
    assert page.read_text() == PAGE.replace("old\nrows", "new")


def test_an_unknown_marker_is_named_and_a_missing_page_is_left_alone(tmp_path):
    with pytest.raises(InputError, match="marker 'one': expected one of two"):
        fill_text(PAGE, {"two": ""})
    fill_page(tmp_path / "none.md", {"one": "x"})
    assert not (tmp_path / "none.md").exists()
