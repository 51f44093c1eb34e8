"""The demo: the embedded cohort through every stage, each a command that a user would run.

`make demo` runs it from the repository's root. It prints each command, so that the reader can run it alone.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from util.cli import run_script
from util.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = "weights/phantom"
PATIENTS = 12         # enough for folds by patient and every grade in every split
SEED = 0              # the shipped weights were trained on other seeds
TRAINING_STEPS = 200  # a body begins to show; the shipped weights took far more

STEPS: tuple[tuple[str, str], ...] = (
    ("Make phantom patients: CT, vertebra mask and the truth",
     f"phantom/make_cohort.py --out dataset/raw --patients {PATIENTS} --seed {SEED} --jobs 2"),
    ("Find the centre of each vertebral body", "straighten/location_json_local.py --jobs 2"),
    ("Straighten the spines", "straighten/straighten_mask_3d.py --jobs 2"),
    ("Fit a fracture classifier, briefly", "Attention/train_classifier.py --max_steps 100"),
    ("Map the evidence of fracture, with the shipped classifier",
     f"Attention/grad_CAM_3d_sagittal.py --checkpoint {WEIGHTS}_classifier.safetensors --jobs 2"),
    ("Train for a moment, to see it learn",
     f"train.py --name demo --max_steps {TRAINING_STEPS} --val_freq 50 --batch_size 4 --ngf 8 --ndf 8"),
    ("Synthesize healthy vertebrae with the shipped weights",
     f"eval_3d_sagittal_twostage.py --checkpoint {WEIGHTS}_sagittal.safetensors "
     f"--checkpoint_coronal {WEIGHTS}_coronal.safetensors --jobs 2"),
    ("Measure the relative height loss", "evaluation/RHLV_quantification.py --jobs 2 --trained_on none"),
    ("Grade by a support vector machine", "evaluation/SVM_grading.py"),
    ("Compare healthy vertebrae with their synthesis", "evaluation/generation_eval_sagittal.py"),
    ("Write the page", "evaluation/report.py --checkpoint checkpoints/demo"),
)


def run_steps(steps: Sequence[tuple[str, str]], root: Path) -> None:
    """Run commands one after another from `root`, telling each and how long it took.

    Raises:
        InputError: a command ends with a status other than zero.
    """
    for number, (purpose, command) in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {purpose}\n$ python {command}", flush=True)
        begun = time.monotonic()
        status = subprocess.run([sys.executable, *command.split()], cwd=root, check=False).returncode
        if status:
            raise InputError(f"step {number} of the demo: expected 'python {command}' to succeed, found exit "
                             f"status {status}; see what it printed above")
        print(f"({time.monotonic() - begun:.0f} s)", flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: the demo has no flags."""
    return argparse.ArgumentParser(description="Run the embedded cohort through every stage of the method.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and say where its page is."""
    build_parser().parse_args(argv)
    begun = time.monotonic()
    run_steps(STEPS, ROOT)
    page = ROOT / "output" / "report" / "index.html"
    print(f"\nThe demo took {(time.monotonic() - begun) / 60:.1f} minutes. Open in a browser:\n  {page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
