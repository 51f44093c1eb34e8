"""Inference: straightened cases and a trained generator in, pseudo-healthy CT and labels out.

    python eval_3d_sagittal_twostage.py --name HealthiVert_experiment
    python eval_3d_sagittal_twostage.py --checkpoint weights/phantom_sagittal.safetensors \
        --checkpoint_coronal weights/phantom_coronal.safetensors

Writes `<output>/CT_fake/<case>.nii.gz`, `<output>/label_fake/<case>.nii.gz` (256 x 256 x 64, uint8, with the
affine of the straightened case) and `<output>/synthesis.csv` (predicted heights in mm). In spite of the
script's name, the plane is the checkpoint's; two checkpoints, one per plane, are fused.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from options.test_options import TestOptions
from util.cli import run_script


def build_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    return TestOptions().build_parser()


def main(argv: Sequence[str] | None = None) -> int:
    """Synthesize the chosen cases; return 0, or 1 if any failed."""
    args = TestOptions().parse(argv)

    from models import case_synthesis as synthesis
    from models.synthesis_records import write_table
    from util.device import choose_device, share_cores
    from util.paths import make_folder
    from util.stage import run_stage
    from util.vertebrae import read_cohort

    cohort = read_cohort(args.cohort)
    cases = synthesis.chosen_cases(cohort.cases(None if args.split == "all" else args.split), args.cases)
    threads = share_cores(args.jobs, args.threads)
    device = args.device if args.scheduler else choose_device(args.device)  # workers choose for themselves
    fractured = cohort.fractured() if args.iterative == "fractured" else {}
    settings = synthesis.SynthesisSettings(
        args.dataroot, make_folder(args.output), args.checkpoints, args.heatmaps, args.iterative,
        fractured, args.heights, device, args.batch_slices, args.amp, threads)
    synthesis.check_models(settings, here=args.jobs == 1 and not args.scheduler)
    digest = synthesis.recipe(settings)
    status = run_stage(
        "synthesis", partial(synthesis.synthesize_case, settings, digest), cases,
        partial(synthesis.is_complete, settings, digest), jobs=args.jobs, overwrite=args.overwrite,
        scheduler=args.scheduler, together=partial(synthesis.synthesize_cases, settings, digest))
    print(f"heights: {write_table(args.output)}")
    return status


if __name__ == "__main__":
    raise SystemExit(run_script(main))
