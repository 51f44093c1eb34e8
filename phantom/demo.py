"""The demo: the embedded cohort through every stage, each a command that a user would run.

`make demo` runs it from the repository's root. It prints each command, so that the reader can run it alone.
"""

import argparse
import time
from collections.abc import Sequence

from util.cli import run_script
from util.steps import ROOT, Step, run_steps

WEIGHTS = "weights/phantom"
PATIENTS = 12         # enough for folds by patient and every grade in every split
SEED = 0              # the shipped weights were trained on other seeds
TRAINING_STEPS = 200  # a body begins to show; the shipped weights took far more

STEPS: tuple[Step, ...] = (
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
