"""The README's own commands, in order, from an empty folder, on a tiny phantom cohort."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from util.vertebrae import Cohort, read_cohort, split_case, write_cohort
from util.volume import read_volume

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.py"), *ROOT.glob("[A-Za-z]*/*.py")]
                 if "run_script(main)" in path.read_text(encoding="utf-8") and "tests" not in path.parts)
LABELS_KEPT = {"train": (19, 20), "test": (19,), "val": (19,)}  # enough to run every stage
# Flags put behind a command to make it small. A generator of three steps draws no body, so the shipped one
# takes its place.
SMALLER = {
    "train.py": "--max_steps 3 --batch_size 2 --ngf 4 --ndf 4 --val_freq 3 --log_freq 1",
    "eval_3d_sagittal_twostage.py":
        f"--iterative none --checkpoint {ROOT}/weights/phantom_sagittal.safetensors",
    "evaluation/SVM_grading.py": "--resamples 20",
    "Attention/train_classifier.py": "--max_steps 3 --width 8",
}


def readme_commands() -> list[str]:
    """Return the commands of the README's pipeline."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## The pipeline")[1].split("\n## ")[0]
    return [line.removeprefix("python ") for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
            for line in block.strip().splitlines() if line.startswith("python ")]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository in a folder."""
    script, *flags = command.split()
    flags += SMALLER.get(script, "").split()
    return subprocess.run([sys.executable, ROOT / script, *flags], cwd=folder, capture_output=True, text=True,
                          check=False)


@pytest.fixture(scope="module")
def finished(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the README has run."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(phantoms / "raw", folder / "dataset" / "raw")
    keep_few_cases(phantoms / "cohort.json", folder / "vertebra_data.json")
    for command in readme_commands():
        result = run(command, folder)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return folder


def keep_few_cases(source: Path, path: Path) -> None:
    """Write the cohort file as a user would: few vertebrae of each patient, T12 graded healthy and L1 not."""
    cohort = read_cohort(source)
    splits = {split: {case: split_case(case)[1] - 19 for case in cases
                      if split_case(case)[1] in LABELS_KEPT[split]} for split, cases in cohort.splits.items()}
    write_cohort(path, Cohort(path, splits))


def test_readme_lists_the_documented_commands():
    scripts = [command.split()[0] for command in readme_commands()]
    documented = ["straighten/location_json_local.py", "straighten/straighten_mask_3d.py",
                  "Attention/grad_CAM_3d_sagittal.py", "train.py", "eval_3d_sagittal_twostage.py",
                  "evaluation/RHLV_quantification.py", "evaluation/SVM_grading.py",
                  "evaluation/generation_eval_sagittal.py"]
    assert [script for script in scripts if script in documented] == documented
    assert ("train.py --dataroot ./dataset/straightened --name HealthiVert_experiment --model pix2pix "
            "--direction BtoA --batch_size 16 --n_epochs 1000") in readme_commands()


def test_every_command_leaves_what_the_readme_says(finished):
    cases = read_cohort(finished / "vertebra_data.json").cases()
    assert len(cases) == 4
    for case in cases:
        original = read_volume(finished / f"dataset/straightened/CT/{case}.nii.gz")
        for folder in ("output/CT_fake", "output/label_fake", "Attention/heatmap"):
            made = read_volume(finished / folder / f"{case}.nii.gz")
            assert made.array.shape == original.array.shape
            assert np.allclose(made.affine, original.affine)
    for path in ("checkpoints/HealthiVert_experiment/best_generator.safetensors",
                 "checkpoints/HealthiVert_experiment/web/index.html", "output/synthesis.csv",
                 "output/grading/metrics.json"):
        assert (finished / path).is_file(), path
    table = pd.read_csv(finished / "output/RHLV/rhlv.csv")
    assert sorted(table["case"]) == sorted(cases)


def test_a_stage_run_again_skips_what_is_complete(finished):
    for script in ("straighten/location_json_local.py", "straighten/straighten_mask_3d.py",
                   "Attention/grad_CAM_3d_sagittal.py", "evaluation/RHLV_quantification.py"):
        result = run(script, finished)
        assert result.returncode == 0, result.stderr
        assert "0 done" in result.stdout and "0 failed" in result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_help(script, tmp_path):
    result = subprocess.run([sys.executable, ROOT / script, "--help"], cwd=tmp_path, capture_output=True,
                            text=True, check=False)
    assert result.returncode == 0 and "usage" in result.stdout
