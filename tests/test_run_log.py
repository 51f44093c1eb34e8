"""What a run shows: its log, its live view and its pictures."""

import builtins
from pathlib import Path

import numpy as np
import pytest
import torch

from util import picture
from util.live_view import LiveView
from util.run_log import RunLog, read_lines


def test_the_log_drops_what_a_cut_off_run_wrote_beyond_its_state(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "kind": "losses", "total": 1.0}\n{"step": 2, "kind": "losses"}\n{"st')
    log = RunLog(path, start=1, steps=4)
    log.count({"total": torch.tensor(3.0)}, 2)
    log.count({"total": torch.tensor(5.0)}, 2)
    log.write_losses(3, 0.1)
    log.write_validation(3, {"psnr": float("nan")})
    log.close()
    lines = read_lines(path)
    assert [line["step"] for line in lines] == [1, 3, 3]
    assert lines[1]["total"] == 4.0 and lines[2]["psnr"] is None


def test_a_missing_visdom_server_is_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveView("http://localhost", 9, "run")  # port 9 discards, where anything listens at all
    view.show_values("losses", 1, {"total": 1.0})
    view.show_picture("restored", np.zeros((4, 4, 3), np.uint8))
    warnings = capsys.readouterr().err.strip().splitlines()
    assert len(warnings) == 1 and warnings[0].startswith("warning: --display visdom")


def test_grids_are_the_same_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [np.full((3, 4, 3), value, np.uint8) for value in (10, 20, 30)]
    plain = picture._plain_grid(pictures, 2)
    assert plain.shape == (2 * 5 + 2, 2 * 6 + 2, 3)
    assert [plain[row, column].tolist() for row, column in ((2, 2), (2, 8), (7, 2), (7, 8))] == [
        [10] * 3, [20] * 3, [30] * 3, [0] * 3]
    real_import = builtins.__import__

    def broken(name: str, *args, **kwargs):
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real_import(name, *args, **kwargs)

    assert np.array_equal(picture.picture_grid(pictures, 2), plain)  # by torchvision where it works
    monkeypatch.setattr(builtins, "__import__", broken)
    assert np.array_equal(picture.picture_grid(pictures, 2), plain)
