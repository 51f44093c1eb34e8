"""Training from the command line and piece by piece, on box spines."""

import builtins
import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from box_spine import BoxCohort, write_box_cohort

import train
from data.aligned_dataset import epoch_batches
from data.integrity import read_cohort_slices
from data.slice_cache import SliceStore
from evaluation.validation import Restored, measure, results_picture, validate
from models import create_model
from models.checkpoint import load_generator, load_state, save_generator
from models.generator import build_generator
from models.generator_output import GeneratorOutput
from models.losses import ObjectiveWeights
from models.pix2pix_model import Pix2PixModel
from models.run_state import RunState
from models.schedule import Schedule, StopRequest
from options.test_options import TestOptions
from options.train_options import TERMS, TrainOptions
from util import picture
from util.cli import run_script
from util.errors import InputError
from util.live_view import LiveView
from util.run_log import RunLog, curve, read_lines

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--ngf=8", "--ndf=4", "--crop_cols=64", "--batch_size=2", "--gpu_ids=-1", "--val_freq=3",
         "--log_freq=1"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """Three patients to learn from, one to watch, one held out; one target each."""
    return write_box_cohort(tmp_path_factory.mktemp("boxes"), patients=5, labels=(20,))


@pytest.fixture(scope="module")
def store(boxes: BoxCohort) -> SliceStore:
    """The vertebrae to learn from."""
    return read_cohort_slices(parse(boxes)).train


def parse(boxes: BoxCohort, *flags: str) -> Namespace:
    """Resolve flags of a small run."""
    return TrainOptions().parse([*boxes.flags, *SMALL, *flags])


def run(boxes: BoxCohort, folder: Path, name: str, *flags: str) -> int:
    """Run train.py's main for a small run."""
    return train.main([*boxes.flags, *SMALL, f"--checkpoints_dir={folder}", f"--name={name}", *flags])


def model_with_batch(boxes: BoxCohort, store: SliceStore, *flags: str) -> Pix2PixModel:
    """A fresh model that has been given its first batch."""
    options = parse(boxes, *flags)
    model = create_model(options, "cpu")
    draw = next(epoch_batches(store, 2, 0, 0))
    model.set_input(store.gather(draw), draw.context_above, draw.context_below)
    return model


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
    assert generator.arguments == {"kind": "residual", "ngf": 8, "attention": True}
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


def assert_equal(one: object, other: object) -> None:
    """Compare nested states to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second)
    else:
        assert one == other


def test_the_same_seed_gives_the_same_first_losses(boxes: BoxCohort, store: SliceStore) -> None:
    found = []
    for seed in (0, 0, 1):
        model = model_with_batch(boxes, store, f"--seed={seed}")
        model.optimize_parameters()
        found.append({name: float(value) for name, value in model.losses.items()})
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("generator", ["residual", "published"])
@pytest.mark.parametrize("term", [field.name for field in fields(ObjectiveWeights)])
def test_each_term_moves_the_generator(boxes: BoxCohort, store: SliceStore, generator: str,
                                       term: str) -> None:
    flags = [f"--lambda_{name}={float(name == term)}" for name in TERMS]
    model = model_with_batch(boxes, store, *flags, f"--netG={generator}", "--ngf=4")
    output = model.generator(model.seen)
    terms = model.objective_terms(output, model.compose_true(output.ct))
    assert list(terms) == [term]
    terms[term].backward()
    gradients = [parameter.grad for parameter in model.generator.parameters() if parameter.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 0.0


def test_a_step_moves_every_network_and_only_its_own_loss_does(boxes: BoxCohort, store: SliceStore) -> None:
    model = model_with_batch(boxes, store)
    before = {name: [parameter.clone() for parameter in network.parameters()]
              for name, network in model.networks.items()}
    for _ in range(2):  # blocks that begin at zero let nothing through in the first step
        model.optimize_parameters()
    for name, network in model.networks.items():
        pairs = zip(before[name], network.parameters(), strict=True)
        moved = [not torch.equal(old, new) for old, new in pairs]
        assert np.mean(moved) > 0.9, name
    gradients = [parameter.grad.clone() for parameter in model.networks["discriminators"].parameters()]
    terms = model.objective_terms(model.generator(model.seen), model.truth.ct)
    terms["gan"].backward()  # the generator's own loss leaves the discriminators' gradients as they were
    for old, parameter in zip(gradients, model.networks["discriminators"].parameters(), strict=True):
        assert torch.equal(old, parameter.grad)


def test_without_adversaries_there_are_none(boxes: BoxCohort, store: SliceStore) -> None:
    model = model_with_batch(boxes, store, "--lambda_gan=0")
    model.optimize_parameters()
    assert list(model.networks) == ["generator"]
    assert "gan" not in model.losses


def test_the_flags_of_the_objective_are_its_terms() -> None:
    assert list(TERMS) == [field.name for field in fields(ObjectiveWeights)]


def test_losses_fall_on_a_batch(boxes: BoxCohort, store: SliceStore) -> None:
    model = model_with_batch(boxes, store, "--lambda_gan=0", "--lr=0.002")
    totals = []
    for _ in range(12):
        model.optimize_parameters()
        totals.append(float(model.losses["total"]))
    assert totals[-1] < 0.7 * totals[0]


def test_mixed_precision_stays_near_full_precision(boxes: BoxCohort, store: SliceStore) -> None:
    losses = []
    for flags in ([], ["--amp"]):
        model = model_with_batch(boxes, store, *flags)
        model.optimize_parameters()
        losses.append(model.losses)
        assert all(value.dtype == torch.float32 for value in model.losses.values())
    for name, value in losses[0].items():
        assert float(losses[1][name]) == pytest.approx(float(value), rel=0.05, abs=0.01), name


def test_schedule_is_constant_then_falls_to_zero() -> None:
    options = Namespace(batch_size=4, n_epochs=3, n_epochs_decay=2, max_steps=None, lr=1.0)
    schedule = Schedule.of(options, vertebrae=10)  # three steps an epoch
    assert (schedule.steps, schedule.decay_steps, schedule.steps_per_epoch) == (15, 6, 3)
    rates = [schedule.learning_rate(step) for step in range(15)]
    assert rates[:9] == [1.0] * 9
    assert np.allclose(rates[9:], np.arange(6, 0, -1) / 7)


def test_max_steps_shrinks_the_schedule() -> None:
    options = Namespace(batch_size=4, n_epochs=3, n_epochs_decay=2, max_steps=5, lr=1.0)
    assert Schedule.of(options, 10) == Schedule(5, 2, 3, 1.0)
    options.max_steps = 500
    assert Schedule.of(options, 10).steps == 15


def test_the_schedule_draws_on_from_any_step() -> None:
    store = read_store()
    schedule = Schedule(steps=8, decay_steps=0, steps_per_epoch=3, rate=1.0)
    whole = [draw.vertebra.tolist() for draw in schedule.draws(store, 2, 0, 0)]
    assert len(whole) == 8
    for start in range(9):
        assert [draw.vertebra.tolist() for draw in schedule.draws(store, 2, 0, start)] == whole[start:]


def read_store() -> SliceStore:
    """Five vertebrae of three one-pixel slices."""
    from data.aligned_dataset import VertebraSlices

    images, distance = np.zeros((3, 2, 1, 1), np.uint8), np.array([-0.5, 0.0, 0.5], np.float32)
    return SliceStore([VertebraSlices(str(number), images, distance, 0, 1) for number in range(5)])


def test_a_stop_request_finishes_the_step() -> None:
    import os
    import signal

    with StopRequest() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set


class Truthful(torch.nn.Module):
    """Draws the truth that it was told, at a height of one's choice."""

    def __init__(self, truth, error_mm: float) -> None:
        super().__init__()
        self.truth, self.error_mm = truth, error_mm

    def forward(self, seen) -> GeneratorOutput:
        from util.geometry import gather_rows, opened_body_map

        truth = self.truth
        rows = opened_body_map(truth.top, truth.bottom, truth.ct.shape[2])
        ct = gather_rows(truth.ct, rows, -1.0)
        height = truth.height_mm + self.error_mm
        return GeneratorOutput(ct, truth.neighbours, height, ct, truth.body, height)


@pytest.mark.parametrize("error_mm", [0.0, 2.0, -4.0])
def test_validation_measures_at_the_predicted_height(boxes: BoxCohort, error_mm: float) -> None:
    from data.aligned_dataset import central_draw
    from data.slice_input import build_slice_truth

    store = read_cohort_slices(parse(boxes)).test
    draw = central_draw(store)
    truth = build_slice_truth(store.gather(draw), draw.context_above, draw.context_below)
    metrics, restored = validate(Truthful(truth, error_mm), store, 8, "cpu")
    height = float(truth.height_mm[0])
    assert metrics["height_bias_mm"] == pytest.approx(error_mm)
    assert metrics["height_error_percent"] == pytest.approx(100 * abs(error_mm) / height)
    assert metrics["neighbours_dice"] == 1.0
    assert int(restored[0].band.any(1).sum()) == max(height, height + error_mm)
    assert (metrics["body_dice"] == 1.0) == (error_mm >= 0)  # a gap too wide holds the whole body
    assert np.array_equal(restored[0].ct, restored[0].true_ct) == (error_mm == 0)
    assert (metrics["ssim"] > 0.999) == (error_mm == 0)
    shown = results_picture(restored)
    assert shown.shape[0] == 2 * (160 + 4) and shown.dtype == np.uint8


def test_copying_the_truth_measures_perfect() -> None:
    image, mask = np.full((256, 64), 90, np.uint8), np.zeros((256, 64), bool)
    mask[100:130, 20:40] = True
    result = Restored("p_20", image, image, image, mask, mask, mask, 1.0, 30.0, 30.0)
    assert measure(result)["body_dice"] == 1.0


def test_dry_run_writes_nothing(boxes: BoxCohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(boxes, tmp_path, "dry", "--dry_run") == 0
    assert not list(tmp_path.iterdir())
    assert "3 vertebrae to learn from, 1 to watch" in capsys.readouterr().out


def test_an_earlier_run_is_kept(boxes: BoxCohort, store: SliceStore, tmp_path: Path) -> None:
    model = model_with_batch(boxes, store, "--lambda_gan=0")
    for seed in range(3):
        state = RunState(tmp_path / "again", parse(boxes), model, store.cases)
        state.begin({"seed": seed})
        state.note_validation({"score": 1.0})
    files = tmp_path.rglob("options.json")
    found = {path.parent.name: json.loads(path.read_text())["seed"] for path in files}
    assert found == {"again.1": 0, "again.2": 1, "again": 2}
    assert len(list(tmp_path.rglob("best_generator.safetensors"))) == 3


def test_a_finished_run_goes_on_to_nothing(boxes: BoxCohort, whole_run: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole_run / "latest_generator.safetensors").read_bytes()
    assert run(boxes, whole_run.parent, "whole", "--max_steps=6", "--continue_train") == 0
    assert (whole_run / "latest_generator.safetensors").read_bytes() == before
    assert "step 6 of 6, complete" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "message"), [
    (["--direction=AtoB"], "erase healthy vertebrae"),
    (["--crop_cols=100"], "multiple of 16"),
    (["--gpu_ids=0,1"], "one GPU"),
    (["--name=a/b"], "plain folder name"),
    (["--cohort=/nowhere.json"], "expected a JSON file"),
    (["--continue_train", "--name=never"], "expected a run in"),
])
def test_mistakes_are_one_line(boxes: BoxCohort, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                               flags: list[str], message: str) -> None:
    argv = [*boxes.flags, *SMALL, f"--checkpoints_dir={tmp_path}", *flags]
    assert run_script(lambda _=None: train.main(argv)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_missing_gpu_is_one_line(boxes: BoxCohort, tmp_path: Path) -> None:
    for flags in (["--device=cuda", "--gpu_ids=0"], ["--gpu_ids=3"]):
        with pytest.raises(InputError, match="expected that CUDA GPU, found none"):
            run(boxes, tmp_path, "gpu", *flags)


def test_an_unwritable_folder_is_told_before_the_data_is_read(boxes: BoxCohort, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="no writable folder"):
        run(boxes, tmp_path / "file", "run")


def test_a_run_goes_on_with_its_own_flags_only(boxes: BoxCohort, whole_run: Path) -> None:
    with pytest.raises(InputError, match=r"--ngf 8 \(now 4\)"):
        run(boxes, whole_run.parent, "whole", "--continue_train", "--ngf=4")
    with pytest.raises(InputError, match="--lambda_gan"):
        run(boxes, whole_run.parent, "whole", "--continue_train", "--lambda_gan=0")


def test_wrong_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no file"):
        load_generator(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="expected a safetensors file"):
        load_generator(tmp_path / "bad.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="another network's weights"):
        load_generator(tmp_path / "other.safetensors")
    (tmp_path / "latest_state.pt").write_bytes(b"cut off")
    with pytest.raises(InputError, match="damaged file"):
        load_state(tmp_path / "latest_state.pt")


@pytest.mark.parametrize("kind", ["residual", "published"])
def test_a_generator_survives_its_file(tmp_path: Path, kind: str) -> None:
    generator = build_generator(kind, 8, False)
    described = {"plane": "coronal", "crop_cols": 64, "attention": "none"}
    save_generator(tmp_path / "g.safetensors", generator, described)
    loaded, settings = load_generator(tmp_path / "g.safetensors")
    assert_equal(dict(loaded.state_dict()), dict(generator.state_dict()))
    assert settings["plane"] == "coronal"


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


def test_options_of_inference_resolve_checkpoints(boxes: BoxCohort) -> None:
    options = TestOptions().parse([*boxes.flags, "--name=one", "--name_coronal=two"])
    assert options.checkpoints == (Path("checkpoints/one/best_generator.safetensors"),
                                   Path("checkpoints/two/best_generator.safetensors"))
    assert TestOptions().parse([*boxes.flags, "--checkpoint=x"]).checkpoints == (Path("x"),)
    with pytest.raises(InputError, match="found both"):
        TestOptions().parse([*boxes.flags, "--name_coronal=two", "--checkpoint_coronal=x"])


def test_the_document_s_flags_are_understood(boxes: BoxCohort) -> None:
    command = ("--dataroot ./dataset/straightened --name HealthiVert_experiment --model pix2pix "
               "--direction BtoA --batch_size 16 --n_epochs 1000")
    options = TrainOptions().parse([f"--cohort={boxes.path}", *command.split()])
    assert (options.batch_size, options.n_epochs, options.attention) == (16, 1000, "heatmap")


def test_help_needs_no_networks() -> None:
    code = "import sys, train; train.build_parser().format_help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
