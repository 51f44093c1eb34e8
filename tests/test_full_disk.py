"""A disk that is full: one line that names the file, and nothing half written."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from box_spine import BoxCohort
from small_training import run

from evaluation.report import copy_file
from models.checkpoint import save_state
from util.cli import run_script
from util.paths import atomic_path, write_json
from util.picture import write_png
from util.run_log import RunLog
from util.stage import run_stage
from util.volume import Volume, write_volume

ROOM_BYTES = 2000
NOISE = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)


@contextmanager
def limited_files() -> Iterator[None]:
    """No file may grow beyond 2 kB: what the system then says takes the way of a full disk.

    Around the writing alone: pytest's own output may be a file, and longer.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def told(work: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run work as a script, which must fail; return the one line that it says."""
    assert run_script(lambda argv=None: work() and 0) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def write_table(path: Path) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(NOISE[:, :, 0]).to_csv(temporary)


def write_log(path: Path) -> None:
    RunLog(path, 0, 1).write_validation(1, {"x" * ROOM_BYTES: 1.0})


@pytest.mark.parametrize(("name", "write"), [
    ("picture.png", lambda path: write_png(path, NOISE)),
    ("state.pt", lambda path: save_state(path, {"weights": torch.rand(9000)})),
    ("volume.nii.gz", lambda path: write_volume(path, Volume(NOISE, np.eye(4)))),
    ("record.json", lambda path: write_json(path, ["x" * 9000])),
    ("table.csv", write_table),
    ("log.jsonl", write_log),
])
def test_every_writer_names_its_file(tmp_path, capsys, name, write):
    with limited_files():
        line = told(partial(write, tmp_path / name), capsys)
    assert line.startswith(f"error: {tmp_path / name}: expected room to write it, found 'File too large'")
    assert [path.name for path in tmp_path.iterdir()] in ([], ["log.jsonl"])


def test_a_copy_names_what_it_writes(tmp_path, capsys):
    source = tmp_path / "source.png"
    source.write_bytes(bytes(2 * ROOM_BYTES))
    with limited_files():
        line = told(partial(copy_file, source, tmp_path / "copy.png"), capsys)
    assert line.startswith(f"error: {tmp_path / 'copy.png'}: expected room")


def test_a_disk_that_tells_late(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail)
    assert "make room there" in told(partial(write_json, tmp_path / "a.json", {}), capsys)


def fail(*_: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_stage_tells_it_of_each_case(tmp_path, capsys):
    def work(case: str) -> None:
        write_json(tmp_path / case, ["x" * 9000])

    with limited_files():
        status = run_stage("work", work, ["a_20", "b_20"], lambda _: False)
    assert status == 1
    assert f"b_20 failed: {tmp_path / 'b_20'}: expected room to write it" in capsys.readouterr().err


def test_another_error_of_the_system_is_no_full_disk():
    with pytest.raises(PermissionError):
        run_script(lambda argv=None: (_ for _ in ()).throw(PermissionError(errno.EACCES, "denied")))


@pytest.mark.parametrize("name", ["step_0000001.png", "index.html", "curves.png"])
def test_a_training_ends_with_a_line(boxes: BoxCohort, tmp_path, capsys, monkeypatch, name):
    """Whichever of its results finds no room."""
    replace = Path.replace

    def replace_others(source: Path, target: Path) -> Path:
        return fail() if target.name == name else replace(source, target)

    monkeypatch.setattr(Path, "replace", replace_others)
    line = told(partial(run, boxes, tmp_path, "run", "--max_steps=1", "--val_freq=1"), capsys)
    assert line == (f"error: {tmp_path / 'run' / 'web' / name}: expected room to write it, found 'No space "
                    f"left on device'; make room there, then go on")
