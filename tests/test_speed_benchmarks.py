"""The speed benchmarks: both sides give the same, and a side that does not is told."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.comparison import (
    Row,
    Settings,
    alternate,
    details_table,
    quantity,
    run_benchmark,
    table,
    write_rows,
)
from benchmarks.inference import Difference, Network, Way, differences
from benchmarks.rhlv import PlainBody, plain_map, plain_thirds
from benchmarks.run_all import GPU_MODULES, MODULES, build_parser, chosen_places
from benchmarks.run_all import main as run_all
from evaluation.heights import height_loss_map
from util.body_heights import measure_body, own_body, third_heights_mm
from util.errors import InputError
from util.paths import fake_ct, fake_label, read_json
from util.volume import Volume, write_volume


def row(equal: bool = True) -> Row:
    details = {"disk_megabytes": 3.5, "place": "disk"}
    return Row("loader", 0.5, 0.002, "slice", equal, "0 bytes differ", details)


def test_the_table_shows_ratio_units_and_a_difference():
    lines = table([row(), row(equal=False)]).splitlines()
    assert lines[2] == "| loader | 500 ms per slice | 2 ms | 250.0 x | yes: 0 bytes differ |"
    assert "| NO: 0 bytes differ |" in lines[3]
    assert [quantity(value) for value in (12.34, 0.5, 25e-6)] == ["12.3 s", "500 ms", "25 µs"]
    assert "| loader | disk megabytes | 3.5 |" in details_table([row()])


@pytest.mark.parametrize("equal", [True, False])
def test_a_benchmark_writes_its_rows_and_fails_where_the_sides_differ(tmp_path, equal):
    def measure(settings: Settings) -> list[Row]:
        assert settings.rounds == 2 and settings.device == "cpu"
        return [row(equal)]

    flags = ["--rounds=2", f"--scratch={tmp_path}"]
    assert run_benchmark(flags, "", "loader", measure) == (0 if equal else 1)
    [written] = read_json(tmp_path / "loader.json")["rows"]
    assert {"stage", "plain", "fast", "ratio", "equal", "machine"} <= set(written)
    assert written["ratio"] == 250 and "cores" in written["machine"]


def test_all_benchmarks_fill_one_file_and_the_page(tmp_path, monkeypatch):
    import importlib

    for name in MODULES:
        module = importlib.import_module(f"benchmarks.{name}")
        monkeypatch.setattr(module, "measure", lambda settings: [row()])
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "performance.md").write_text("<!-- rows: written by benchmarks/run_all.py -->\n<!-- end -->\n")
    write_rows(docs / "performance.json", [replace(row(), stage="loader_gpu", machine="another"), row(False)])
    assert run_all([f"--scratch={tmp_path}", f"--docs={docs}"]) == 0
    assert len(read_json(tmp_path / "performance.json")["rows"]) == len(MODULES)
    written = read_json(docs / "performance.json")["rows"]
    assert [one["stage"] for one in written] == ["loader"] * len(MODULES) + ["loader_gpu"]
    assert written[-1]["machine"] == "another" and all(one["equal"] for one in written)
    assert "| loader | 500 ms per slice |" in (docs / "performance.md").read_text()


def test_a_gpu_adds_its_rows(monkeypatch):
    monkeypatch.setattr("util.device.choose_device", lambda name: "cpu" if name == "cpu" else "cuda")

    def places(*flags: str) -> list[tuple[str, int]]:
        args = build_parser().parse_args(flags)
        return [(settings.device, len(modules)) for settings, modules in chosen_places(args)]

    assert places("--device=auto") == [("cpu", len(MODULES)), ("cuda", len(GPU_MODULES))]
    assert places("--device=cuda") == [("cuda", len(GPU_MODULES))]
    assert places() == [("cpu", len(MODULES))]


def test_rounds_alternate_and_the_quickest_counts():
    calls: list[str] = []
    alternate(lambda: calls.append("plain"), lambda: calls.append("fast"), 2)
    assert calls == ["fast", "plain", "fast", "plain", "fast"]


def test_loops_over_columns_measure_what_arrays_measure():
    rng = np.random.default_rng(0)
    bodies = []
    for size in (20, 24):
        mask = np.zeros((60, 50, 30), np.uint8)
        for index in range(4, 25):
            for column in range(8, 41):
                height = size - (3 if column < 12 else 0) + int(rng.integers(-2, 3))
                mask[10:10 + height, column, index] = 1
        mask[2:6, 44:48, 5:9] = 1                                         # an island, which is none of it
        mask[10:14, 30, 26] = 1                                           # a sliver
        bodies.append(mask)
    plain = [PlainBody(mask == 1) for mask in bodies]
    fast = [measure_body(own_body(mask, 1)) for mask in bodies]
    for one, other in zip(plain, fast, strict=True):
        assert one.slices == other.slices
        assert plain_thirds(one) == pytest.approx(third_heights_mm(other)[:3].tolist())
    assert np.allclose(plain_map(*plain), height_loss_map(*fast), atol=1e-6, equal_nan=True)


def test_inference_in_bfloat16_is_judged_by_the_mean_and_else_by_the_greatest_difference():
    nearly = Difference(grey_levels=9, mean_grey_levels=0.4, label_share=0.0)
    assert nearly.judged(amp=True)[0] and not nearly.judged(amp=False)[0]
    assert not Difference(200, 3.0, 0.0).judged(amp=True)[0]
    assert not Difference(1, 0.1, 0.05).judged(amp=True)[0]
    assert Difference(1, 0.1, 0.0).judged(amp=False)[0]


def test_a_gpu_is_measured_with_one_process_and_with_several():
    published, shipped = (Network("inference", (), 1, 1, 1, is_published) for is_published in (True, False))
    assert published.ways("gpu", jobs=8) == [Way("", True, 1), Way("_jobs", True, 8)]
    assert shipped.ways("gpu", jobs=1) == [Way("", False, 1)]
    assert published.ways("cpu", jobs=2) == [Way("", False, 2), Way("_amp", True, 2)]


def test_two_results_differ_by_their_voxels_in_the_restored_rows(tmp_path):
    label, ct = np.zeros((2, 8, 4, 4), np.uint8)
    label[2:4] = 20
    for name, grey in (("first", 100), ("second", 104)):
        changed = ct.copy()
        changed[2, 0, :] = grey
        write_volume(fake_ct(tmp_path / name, "p_20"), Volume(changed, np.eye(4)))
        write_volume(fake_label(tmp_path / name, "p_20"), Volume(label, np.eye(4)))
    found = differences(tmp_path / "first", tmp_path / "second", ["p_20"])
    assert found == Difference(4, 4 * 4 / 32, 0.0)


def test_costs_are_a_fixed_part_and_one_per_vertebra():
    runs = [scaling.Run(stage.name, count, 3.0 + 0.5 * count, 900.0 + count, 2.0 * count)
            for stage in scaling.STAGES for count in (20, 60)]
    cost = scaling.fit(runs)[0]
    assert (cost.fixed_s, cost.vertebra_s) == (pytest.approx(3.0), pytest.approx(0.5))
    assert (cost.memory_mb, cost.vertebra_mb) == (960, 2.0)
    outlook = scaling.outlook_table([cost], vertebrae_per_ct=10)
    assert "| find bodies | 0.9 h | 1.4 h | 0.20 TB | 20.00 TB |" in outlook


def test_one_size_says_nothing_of_scaling(tmp_path):
    with pytest.raises(InputError, match="two different sizes"):
        scaling.main(["--patients", "3", "3", f"--scratch={tmp_path}"])
