"""Learning curves: steps to another's quality, and both benchmarks from the command line."""

import json
from pathlib import Path

import pytest
import torch
from box_spine import BoxCohort

from benchmarks import overfit, precision, short_run
from benchmarks.learning_curves import METRICS, compare_steps, steps_table

SMALL = ["--ngf=4", "--ndf=4", "--crop_cols=64", "--batch_size=2", "--gpu_ids=-1", "--threads=1"]


@pytest.fixture(autouse=True)
def same_threads():
    """Leave the number of threads as it was."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def rows(*values: tuple[float, float, float]) -> list[dict[str, float]]:
    """A curve measured every ten steps; (PSNR, both Dices, height error)."""
    return [{"psnr_db": psnr, "body_dice": dice, "neighbours_dice": dice, "height_error_percent": error,
             "step": 10.0 * number, "seconds": 2.0 * number}
            for number, (psnr, dice, error) in enumerate(values)]


def test_steps_to_quality_are_counted() -> None:
    published = rows((5, 0.0, 20), (9, 0.1, 18), (12, 0.3, 19), (11, 0.2, 10))
    default = rows((4, 0.0, 30), (12, 0.2, 10), (15, 0.25, 4))
    found = {row["metric"]: row for row in compare_steps(default, published)}
    assert list(found) == list(METRICS)
    psnr, dice, error = (found[name] for name in ("psnr_db", "body_dice", "height_error_percent"))
    assert (psnr["best"], psnr["published_step"], psnr["published_seconds"]) == (12, 20, 4)
    assert (psnr["default_step"], psnr["default_seconds"], psnr["share_of_steps"]) == (10, 2, 0.5)
    assert (dice["best"], dice["default_step"], dice["share_of_steps"]) == (0.3, None, None)  # never
    assert (error["published_step"], error["default_step"]) == (30, 10)
    assert error["share_of_steps"] == pytest.approx(1 / 3)
    table = steps_table(list(found.values())).splitlines()
    assert table[2] == "| PSNR in the band, dB | 12 | 20 | 4 | 10 | 2 | 0.5 | 0.333 |"
    assert table[3] == "| Dice of the body | 0.3 | 20 | 4 | – | – | – | – |"


@pytest.mark.parametrize("benchmark", [overfit, short_run])
def test_a_benchmark_leaves_curves_and_a_comparison(boxes: BoxCohort, tmp_path: Path, benchmark,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    extra = ["--slices=3"] if benchmark is overfit else []
    for generator in ("residual", "published"):
        assert benchmark.main([*boxes.flags, *SMALL, *extra, f"--netG={generator}", "--steps=3", "--every=2",
                               f"--out={tmp_path}"]) == 0
    curve = json.loads((tmp_path / "residual.json").read_text())["curve"]
    assert [row["step"] for row in curve] == [0, 2, 3]
    assert all(set(METRICS) | {"seconds"} <= row.keys() for row in curve)
    assert curve[0]["seconds"] == 0.0 and curve[1]["seconds"] < curve[2]["seconds"]
    assert len(json.loads((tmp_path / "steps_to_quality.json").read_text())["rows"]) == len(METRICS)
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert "share of steps" in capsys.readouterr().out


def test_precision_is_told_beside_chance(boxes: BoxCohort, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert precision.main([*boxes.flags, *SMALL, "--slices=3", "--steps=3", "--every=2", "--repeats=2",
                           f"--out={tmp_path}"]) == 0
    result = json.loads((tmp_path / "residual.json").read_text())
    assert result["full_precision"].keys() == result["nudged"].keys() == result["amp"].keys()
    assert 0 < abs(result["nudged"]["total"]["percent"]) < 0.1
    assert 0 < abs(result["amp"]["total"]["percent"]) < 5
    printed = capsys.readouterr().out
    assert "--amp, seed 1: step 2 of 3" in printed and "| total |" in printed


def test_differences_are_paired_by_repeat() -> None:
    """Losses of 10 and 30 that both rise by 2 are 10 % more on average, without any doubt."""
    found = precision.differences([{"l1": 10.0}, {"l1": 30.0}], [{"l1": 12.0}, {"l1": 32.0}])
    assert found["l1"] == pytest.approx((10.0, 0.0))
    found = precision.differences([{"l1": 20.0}, {"l1": 20.0}], [{"l1": 20.0}, {"l1": 24.0}])
    assert found["l1"] == pytest.approx((10.0, 10.0)) and str(found["l1"]) == "+10.00 ± 10.00"
