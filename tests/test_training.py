"""Training from the command line: what a run leaves, and how it goes on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from box_spine import BoxCohort
from filelock import FileLock
from small_training import assert_equal, model_with_batch, parse, run

import train
from data.slice_cache import SliceStore
from models import run_state
from models.checkpoint import load_generator, load_state, save_generator, save_state
from models.run_state import RunState
from options.train_options import TERMS
from util.errors import InputError
from util.paths import read_json, write_json
from util.run_log import curve, read_lines


@pytest.fixture(scope="module")
def whole_run(boxes: BoxCohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six steps that nobody interrupted."""
    folder = tmp_path_factory.mktemp("runs")
    assert run(boxes, folder, "whole", "--max_steps=6") == 0
    return folder / "whole"


def test_a_run_leaves_all_that_it_promises(whole_run: Path) -> None:
    names = {str(path.relative_to(whole_run)) for path in whole_run.rglob("*") if path.is_file()}
    assert names == {"best_generator.safetensors", "latest_generator.safetensors", "latest_state.pt",
                     "log.jsonl", "options.json", "web/index.html", "web/curves.png", "web/step_0000003.png",
                     "web/step_0000006.png"}
    options = json.loads((whole_run / "options.json").read_text())
    assert options["max_steps"] == 6 and options["device"] == "cpu" and options["lambda_edge"] > 0
    page = (whole_run / "web" / "index.html").read_text()
    assert all(word in page for word in ("curves.png", "step_0000006.png", "Dice, body", "batch_size: 2"))


def test_the_page_of_a_run_that_has_ended_says_so(whole_run: Path) -> None:
    page = (whole_run / "web" / "index.html").read_text()
    assert "The run has ended: step 6 of 6, complete." in page
    assert "reloads" not in page and "refresh" not in page


def test_the_page_of_a_run_that_was_stopped_reloads_once_it_goes_on(
        boxes: BoxCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(boxes, tmp_path, "run", "--max_steps=6", "--stop_after=4") == 0
    path = tmp_path / "run" / "web" / "index.html"
    page = path.read_text()
    assert "The run has stopped: step 4 of 6, 2 left: go on with --continue_train." in page
    assert "reloads" not in page and "refresh" not in page
    pages = []
    monkeypatch.setattr(train, "learn", lambda *_: pages.append(path.read_text()))
    with pytest.raises(KeyError):  # no losses, since nothing was learned
        run(boxes, tmp_path, "run", "--max_steps=6", "--continue_train")
    assert "Step 4. The page reloads every minute." in pages[0] and 'http-equiv="refresh"' in pages[0]


def test_the_log_holds_losses_and_metrics(whole_run: Path) -> None:
    lines = read_lines(whole_run / "log.jsonl")
    losses = [line for line in lines if line["kind"] == "losses"]
    assert [line["step"] for line in losses] == [1, 2, 3, 4, 5, 6]
    assert {*TERMS, "total", "D_image", "D_mask", "D_target", "samples_per_second"} <= set(losses[0])
    assert None not in [value for line in losses for value in line.values()]
    validations = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in validations] == [3, 6]
    assert {"psnr", "ssim", "body_dice", "neighbours_dice", "height_error_mm", "height_error_percent"} <= set(
        validations[0])
    assert curve(lines, "losses", "total").shape == (6, 2)


def test_a_checkpoint_explains_itself(whole_run: Path) -> None:
    generator, settings = load_generator(whole_run / "latest_generator.safetensors")
    assert generator.arguments == {"kind": "residual", "ngf": 8, "attention": True, "column_means": True}
    assert not generator.training
    assert (settings["plane"], settings["crop_cols"], settings["attention"]) == ("sagittal", 64, "heatmap")
    assert settings["training"]["steps"] == 6 and "body_dice" in settings["training"]["metrics"]


@pytest.mark.parametrize("stop", [3, 5])  # within an epoch of two steps, with and without a validation
def test_stopped_and_continued_equals_not_stopped(boxes: BoxCohort, whole_run: Path, tmp_path: Path,
                                                  stop: int) -> None:
    assert run(boxes, tmp_path, "whole", "--max_steps=6", f"--stop_after={stop}") == 0
    assert load_state(tmp_path / "whole" / "latest_state.pt")["step"] == stop
    torch.manual_seed(99)
    assert run(boxes, tmp_path, "whole", "--max_steps=6", "--continue_train") == 0
    for name in ("latest_generator.safetensors", "best_generator.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (whole_run / name).read_bytes(), name
    one, other = (load_state(folder / "latest_state.pt") for folder in (tmp_path / "whole", whole_run))
    assert_equal(one, other)
    quick = ("samples_per_second",)
    lines = [[{key: value for key, value in line.items() if key not in quick}
              for line in read_lines(folder / "log.jsonl")] for folder in (tmp_path / "whole", whole_run)]
    assert lines[0] == lines[1]


def test_a_finished_run_goes_on_to_nothing(boxes: BoxCohort, whole_run: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole_run / "latest_generator.safetensors").read_bytes()
    assert run(boxes, whole_run.parent, "whole", "--max_steps=6", "--continue_train") == 0
    assert (whole_run / "latest_generator.safetensors").read_bytes() == before
    assert "step 6 of 6, complete" in capsys.readouterr().out


def test_a_run_goes_on_with_its_own_flags_only(boxes: BoxCohort, whole_run: Path) -> None:
    with pytest.raises(InputError, match=r"--ngf 8 \(now 4\)"):
        run(boxes, whole_run.parent, "whole", "--continue_train", "--ngf=4")
    with pytest.raises(InputError, match="--lambda_gan"):
        run(boxes, whole_run.parent, "whole", "--continue_train", "--lambda_gan=0")


def test_a_run_that_lacks_a_term_of_today_is_told(boxes: BoxCohort, whole_run: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole_run, tmp_path / "whole")
    options = read_json(tmp_path / "whole" / "options.json")
    write_json(tmp_path / "whole" / "options.json",
               {name: value for name, value in options.items() if name != "lambda_l2"})
    assert run(boxes, tmp_path, "whole", "--max_steps=7", "--continue_train") == 0
    assert "--lambda_l2 0.0 (now 0.9)" in capsys.readouterr().err


def test_a_run_tells_with_what_else_it_goes_on(boxes: BoxCohort, whole_run: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate or a weight may be changed on purpose; the momentum is that of the saved optimiser."""
    shutil.copytree(whole_run, tmp_path / "whole")
    state = load_state(tmp_path / "whole" / "latest_state.pt")
    save_state(tmp_path / "whole" / "latest_state.pt", state | {"watched": ["another_20"]})
    assert run(boxes, tmp_path, "whole", "--max_steps=7", "--lambda_edge=1", "--continue_train") == 0
    told = capsys.readouterr().err
    assert "the vertebrae to watch have changed" in told
    assert "flags have changed: --max_steps 6 (now 7), --lambda_edge 20.0 (now 1.0); the run goes on" in told
    with pytest.raises(InputError, match=r"--beta1 0.5 \(now 0.9\)"):
        run(boxes, tmp_path, "whole", "--max_steps=7", "--lambda_edge=1", "--beta1=0.9", "--continue_train")
    assert run(boxes, tmp_path, "whole", "--max_steps=7", "--lambda_edge=1", "--continue_train") == 0
    assert "warning" not in capsys.readouterr().err


def test_flags_are_read_once_where_a_run_is_taken_up(boxes: BoxCohort, store: SliceStore, whole_run: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    options, read = parse(boxes, "--continue_train"), []
    model = model_with_batch(boxes, store)
    monkeypatch.setattr(run_state, "read_json", lambda path: read.append(path) or read_json(path))
    state = RunState(whole_run, options, model, store.cases, [])
    flags = read_json(whole_run / "options.json")
    state.begin(flags)
    assert read == [whole_run / "options.json"] and state.step == 6


def test_two_runs_do_not_share_a_folder(boxes: BoxCohort, whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "whole")
    before = (tmp_path / "whole" / "latest_state.pt").read_bytes()
    with FileLock(tmp_path / ".whole.lock"):
        for flags in ([], ["--continue_train"]):
            with pytest.raises(InputError, match="--name whole: expected nobody else to train into"):
                run(boxes, tmp_path, "whole", "--max_steps=6", *flags)
    assert (tmp_path / "whole" / "latest_state.pt").read_bytes() == before
    assert not (tmp_path / "whole.1").exists()
    assert run(boxes, tmp_path, "whole", "--max_steps=6", "--continue_train") == 0


def test_a_run_of_another_version_is_refused(boxes: BoxCohort, whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "older")
    state = load_state(tmp_path / "older" / "latest_state.pt")
    networks = state["model"]["networks"]
    networks["discriminators"] = {f"older.{name}": value
                                  for name, value in networks["discriminators"].items()}
    save_state(tmp_path / "older" / "latest_state.pt", state)
    with pytest.raises(InputError, match="expected the networks of this version"):
        run(boxes, tmp_path, "older", "--continue_train")


def test_dry_run_writes_nothing(boxes: BoxCohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(boxes, tmp_path, "dry", "--dry_run") == 0
    assert not list(tmp_path.iterdir())
    assert "3 vertebrae to learn from, 1 to watch" in capsys.readouterr().out


def test_a_generator_that_was_built_otherwise_is_refused(boxes: BoxCohort, whole_run: Path,
                                                         tmp_path: Path) -> None:
    """One whose gap did not begin as the column means has weights of the same names and shapes."""
    shutil.copytree(whole_run, tmp_path / "older")
    path = tmp_path / "older" / "latest_generator.safetensors"
    generator, settings = load_generator(path)
    generator.arguments["column_means"] = False
    save_generator(path, generator, settings)
    with pytest.raises(InputError, match="expected the networks of this version"):
        run(boxes, tmp_path, "older", "--max_steps=7", "--continue_train")


def test_an_earlier_run_is_kept(boxes: BoxCohort, store: SliceStore, tmp_path: Path) -> None:
    model = model_with_batch(boxes, store, "--lambda_gan=0")
    for seed in range(3):
        state = RunState(tmp_path / "again", parse(boxes), model, store.cases, [])
        state.begin({"seed": seed})
        state.note_validation({"score": 1.0})
    files = tmp_path.rglob("options.json")
    found = {path.parent.name: json.loads(path.read_text())["seed"] for path in files}
    assert found == {"again.1": 0, "again.2": 1, "again": 2}
    assert len(list(tmp_path.rglob("best_generator.safetensors"))) == 3
