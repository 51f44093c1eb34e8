"""What each part of the method is worth: it is switched off, all else staying as it is.

Iterative synthesis, the fusion of two planes and the height prior are switched off at inference, against the
judged generator. EEM, HGAM, SHRM and the neighbours' mask shape the network, so the full and each reduced
sagittal generator are trained from one seed for equally many steps, and compared among themselves, with the
heights that the networks predict: the height prior would hide what they learned. Every step skips what is
complete, and a training that was interrupted goes on.
"""

import argparse
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.grade_metrics import Resampling
from evaluation.patient_sample import Sample, with_interval
from evaluation.scoreboard.course import (
    HELD_OUT,
    Place,
    command,
    healthy_steps,
    loss_command,
    synthesis_command,
)
from evaluation.scoreboard.measures import GENERATOR, measures
from evaluation.scoreboard.metrics import differences
from evaluation.scoreboard.table import tidy_table
from evaluation.scoreboard.truth import compare_shapes, is_compared
from util.errors import InputError
from util.stage import run_stage
from util.steps import Step, run_steps
from util.vertebrae import Cohort, split_case, write_cohort

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("reference_height_mae_mm", "reference_height_rel_diff_percent", "rhlv_mae_points", "body_dice",
            "body_hausdorff95_mm", "roc_auc", "macro_f1")
VALIDATIONS = 10  # of each training


@dataclass(frozen=True)
class Part:
    """A part of the method, and the flags that do without it.

    Attributes:
        title: as the table has it; the folder's name is made from it.
        training: flags of train.py.
        inference: flags of eval_3d_sagittal_twostage.py.
    """

    title: str
    training: tuple[str, ...] = ()
    inference: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Return the title as a file name."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.title.lower())


HEAD = ("--heights", "head")
FULL = Part("full")
SWITCHED = (Part("without iterative synthesis", inference=("--iterative", "none")),
            Part("without the height prior", inference=HEAD))
ONE_PLANE = Part("without 2.5D fusion")
TRAINED = (
    Part("full", inference=HEAD),
    Part("without EEM", ("--lambda_edge", "0"), HEAD),
    Part("without HGAM", ("--attention", "none"), HEAD),
    # Without supervision the height head says nothing, so the drawn body's own extent decides.
    Part("without SHRM", ("--lambda_height", "0", "--lambda_coarse_height", "0"), ("--heights", "drawn")),
    Part("without the neighbours' mask", ("--lambda_neighbours_dice", "0"), HEAD),
)


def ablate(args: argparse.Namespace, place: Place, cohort: Cohort) -> dict[str, Any]:
    """Run every variant and return the ablation's rows for the report: the full method, then the differences.

    Raises:
        InputError: a step fails, or what the training needs is missing.
    """
    cohort, place = smaller(args, place, cohort)
    checkpoints = [path for path in (args.checkpoint, args.checkpoint_coronal) if path]
    variants = [(part, checkpoints) for part in (FULL, *SWITCHED)]
    if len(checkpoints) > 1:
        variants.append((ONE_PLANE, checkpoints[:1]))
    resampling = Resampling(args.resamples, args.seed)
    rows = compared(run_variants(args, place, cohort, variants), "", resampling)
    if args.ablate_steps:
        trained = [(part, [train(args, place, part)]) for part in TRAINED]
        rows |= compared(run_variants(args, place, cohort, trained, "trained_"),
                         f", sagittal, {args.ablate_steps} steps", resampling)
    return rows


def smaller(args: argparse.Namespace, place: Place, cohort: Cohort) -> tuple[Cohort, Place]:
    """Return the cohort of the first held-out patients, written to a file, and where the ablation lies."""
    chosen = set(cohort.patients(HELD_OUT)[:args.ablate_patients])
    cases = {case: grade for case, grade in cohort.splits[HELD_OUT].items() if split_case(case)[0] in chosen}
    folder = place.out / "ablation"
    small = Cohort(folder / "cohort.json", {HELD_OUT: cases}, cohort.paths)
    write_cohort(small.path, small)
    return small, replace(place, cohort=small.path, out=folder)


def train(args: argparse.Namespace, place: Place, part: Part) -> Path:
    """Train a generator without a part, unless it is complete; return its weights after the last step.

    Raises:
        InputError: the cohort to train on is missing, or the training fails.
    """
    if not args.ablate_cohort.is_file():
        raise InputError(f"--ablate_cohort {args.ablate_cohort}: expected the cohort to train on, found no "
                         f"file; name it, and its folders by --ablate_dataroot and --ablate_heatmaps")
    runs, name = place.out / "checkpoints", f"{part.slug}_{args.ablate_steps}_{_recipe(args, part)}"
    weights = runs / name / "latest_generator.safetensors"
    if _is_trained(weights, args.ablate_steps) and not args.overwrite:
        print(f"\nablation: {name} is trained")
        return weights
    is_begun = (runs / name / "latest_state.pt").is_file() and not args.overwrite
    run_steps([(f"Train {part.title}", command(
        "train.py", "--name", name, "--checkpoints_dir", runs, "--cohort", args.ablate_cohort, "--dataroot",
        args.ablate_dataroot, "--heatmaps", args.ablate_heatmaps, "--plane", "sagittal", "--max_steps",
        args.ablate_steps, "--val_freq", max(args.ablate_steps // VALIDATIONS, 1), "--seed", args.seed,
        *shlex.split(args.ablate_flags), *part.training,
        *(["--continue_train"] if is_begun else [])))], Path.cwd())
    return weights


def _recipe(args: argparse.Namespace, part: Part) -> str:
    """Return a digest of what decides a training, so that another one does not take its place."""
    decides = (*part.training, args.ablate_flags, args.seed, args.ablate_cohort.read_text(encoding="utf-8"),
               args.ablate_dataroot, args.ablate_heatmaps)
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:8]


def _is_trained(weights: Path, steps: int) -> bool:
    """Tell whether a run has reached its last step."""
    from models.checkpoint import read_settings

    return weights.is_file() and read_settings(weights)[1]["training"].get("steps") == steps


def run_variants(args: argparse.Namespace, place: Place, cohort: Cohort,
                 variants: Sequence[tuple[Part, Sequence[Path]]],
                 prefix: str = "") -> "dict[str, pd.DataFrame]":
    """Synthesize, measure and compare shapes of every variant; return its tidy rows by title."""
    rows = {}
    run_steps(healthy_steps(args, place, cohort.patients()), Path.cwd(), past_bad_cases=True)
    for part, checkpoints in variants:
        own = replace(place, out=place.out / (prefix + part.slug))
        steps: list[Step] = [
            (f"Synthesize {part.title}", synthesis_command(args, own, own.out, checkpoints, *part.inference)),
            ("Measure the relative height loss", loss_command(args, own, own.out))]
        run_steps(steps, Path.cwd(), past_bad_cases=True)
        run_stage("shapes", partial(compare_shapes, own), cohort.cases(), partial(is_compared, own),
                  jobs=args.jobs, scheduler=args.scheduler)
        table = tidy_table(cohort, own)
        rows[part.title] = table[table["method"] == GENERATOR].reset_index(drop=True)
    return rows


def compared(variants: "dict[str, pd.DataFrame]", suffix: str, resampling: Resampling) -> dict[str, Any]:
    """Return the full method's measures, and of every other variant the difference to it.

    Args:
        variants: tidy rows of the generator by title, `full` among them.
        suffix: behind every title.
        resampling: of patients, for the 95 % intervals.
    """
    full = variants[FULL.title]
    sample = Sample.of(full["patient"].tolist(), resampling.draws, resampling.seed)
    found = measures(float("nan"))
    rows: dict[str, Any] = {FULL.title + suffix: {
        "vertebrae": len(full), "is_difference": False,
        "measures": {name: with_interval(found[name](full, sample)) for name in MEASURES}}}
    for title, table in variants.items():
        if title != FULL.title:
            change = differences(table, full, {}, sample)
            rows[title + suffix] = {"vertebrae": change["vertebrae"], "is_difference": True,
                                    "measures": {name: change.get(name) for name in MEASURES}}
    return rows
