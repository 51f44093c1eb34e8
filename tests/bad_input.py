"""What tests of bad input share: the one line that is told, and a patient of two boxes."""

from pathlib import Path

import numpy as np
import pytest

from util.cli import Main, run_script
from util.paths import (
    raw_ct,
    raw_mask,
)
from util.volume import Volume, write_volume

AFFINE = np.array([[0, 0, -1, 40], [0, -1, 0, 40], [-1, 0, 0, 75], [0, 0, 0, 1]], float)  # axes I-P-L


def told(capsys: pytest.CaptureFixture[str], main: Main, *flags: object) -> str:
    """Run a script that must refuse its input, and return the one line it says."""
    capsys.readouterr()
    assert run_script(lambda _=None: main([str(flag) for flag in flags])) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def boxes() -> np.ndarray:
    """A mask of two boxes, L1 above L2."""
    mask = np.zeros((60, 40, 40), np.uint8)
    mask[5:25, 10:30, 10:30], mask[32:55, 10:30, 10:30] = 20, 21
    return mask


def write_patient(raw: Path, name: str = "p") -> tuple[Path, Path]:
    """Write a patient of two boxes; return CT and mask."""
    write_volume(raw_ct(raw, name), Volume(np.where(boxes() > 0, 400, -100).astype(np.int16), AFFINE))
    write_volume(raw_mask(raw, name), Volume(boxes(), AFFINE))
    return raw_ct(raw, name), raw_mask(raw, name)
