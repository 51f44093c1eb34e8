"""Flags of training and inference: what they resolve to, and mistakes in one line."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from box_spine import BoxCohort
from small_training import SMALL, run

import train
from models.losses import ObjectiveWeights
from options.test_options import TestOptions
from options.train_options import TERMS, TrainOptions
from util.cli import run_script
from util.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


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


def test_the_flags_of_the_objective_are_its_terms() -> None:
    assert list(TERMS) == [field.name for field in fields(ObjectiveWeights)]


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
