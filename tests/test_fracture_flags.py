"""Flags of a virtual fracture that cannot be are told before anything is read."""

import pytest
from bad_input import told

from phantom.fracture import main as fracture_main


@pytest.mark.parametrize("flag, value, message", [
    ("--loss", "0.9", "expected 0 to 0.8, found 0.9"), ("--loss", "nan", "expected 0 to 0.8, found nan"),
    ("--kyphosis", "1.1", "expected 0 to 1, found 1.1"), ("--label", "26", "invalid choice: 26")])
def test_numbers_out_of_range_are_told_by_the_parser(capsys, flag, value, message):
    flags = {"--ct": "none", "--mask": "none", "--label": "20", "--kind": "crush", "--loss": "0.3"}
    with pytest.raises(SystemExit, match="2"):
        fracture_main([text for pair in (flags | {flag: value}).items() for text in pair])
    assert f"argument {flag}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--label", 20, 20), ("--label", 20, "--healthy", 20)])
def test_what_contradicts_itself_is_told_before_anything_is_read(tmp_path, capsys, flags):
    assert "expected each vertebra once, found [20] twice" in told(
        capsys, fracture_main, "--ct", tmp_path / "none", "--mask", tmp_path / "none", "--kind", "crush",
        "--loss", 0.3, *flags, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
