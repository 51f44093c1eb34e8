"""The benchmark's course: which commands make what is scored, and where everything lies.

Each step is a command that a user could run; each skips what is complete.
"""

import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from util.errors import InputError
from util.paths import atomic_path, make_folder, raw_mask, visible
from util.steps import ROOT, Step
from util.vertebrae import Cohort, read_cohort

PHANTOM = "phantom"
CALIBRATION, HELD_OUT = "test", "val"
BASELINES = "baselines"
MODEL_PATTERN = "phantom_baselines.*"


@dataclass(frozen=True)
class Place:
    """Where a benchmark reads and writes.

    Attributes:
        cohort: the list of cases.
        raw, dataroot, heatmaps: as every stage has them.
        healthy_raw, healthy: the bodies before their fractures, as masks and straightened.
        out: of the results; the generator's volumes lie there as those of any inference.
        has_baselines: whether baselines are judged too, and not just left from an earlier run.
    """

    cohort: Path
    raw: Path
    dataroot: Path
    heatmaps: Path
    healthy_raw: Path
    healthy: Path
    out: Path
    has_baselines: bool

    def baselines(self, split: str) -> Path:
        """Return the folder of the baselines' results on a split."""
        return self.out / BASELINES / split


def place_of(args: Namespace) -> Place:
    """Return where a benchmark's files lie: under --root for the phantom, else where the cohort file says."""
    if args.cohort == PHANTOM:
        root = args.root
        return Place(root / "cohort.json", root / "raw", root / "straightened", root / "heatmap",
                     root / "healthy_raw", root / "healthy", args.out, not args.no_baselines)
    paths = read_cohort(args.cohort).paths
    return Place(Path(args.cohort), Path(paths.get("raw", "dataset/raw")),
                 Path(paths.get("straightened", "dataset/straightened")),
                 Path(paths.get("heatmap", "Attention/heatmap")),
                 args.out / "healthy_raw", args.out / "healthy", args.out, not args.no_baselines)


def command(script: str, *flags: object, args: Namespace | None = None) -> str:
    """Return a command as one line; with `args`, the flags that all stages share follow them."""
    shared: list[object] = []
    if args is not None:
        shared = ["--jobs", args.jobs, *(["--overwrite"] if args.overwrite else []),
                  *(["--scheduler", args.scheduler] if args.scheduler else [])]
    return shlex.join(map(str, (script, *flags, *shared)))


def data_steps(args: Namespace, place: Place) -> list[Step]:
    """Return the steps from nothing, or from a user's scans, to straightened cases and heatmaps."""
    steps: list[Step] = []
    if args.cohort == PHANTOM:
        patients = args.calibration_patients + args.patients
        steps.append(("Make the phantom patients, held-out ones with fractures of every severity", command(
            "phantom/make_cohort.py", "--out", place.raw, "--cohort", place.cohort, "--patients", patients,
            "--seed", args.seed, "--hold_out", "even", "--scanner", "isotropic", "--split_shares", 0.0,
            args.calibration_patients / patients, args.patients / patients, args=args)))
    return [*steps, (
        "Find the centre of each vertebral body",
        command("straighten/location_json_local.py", "--raw", place.raw, "--cohort", place.cohort,
                args=args)), (
        "Straighten the spines",
        command("straighten/straighten_mask_3d.py", "--raw", place.raw, "--out", place.dataroot,
                "--cohort", place.cohort, args=args)), (
        "Map the evidence of fracture",
        command("Attention/grad_CAM_3d_sagittal.py", "--dataroot", place.dataroot, "--cohort", place.cohort,
                "--out", place.heatmaps, "--checkpoint", args.classifier, args=args))]


def synthesis_command(args: Namespace, place: Place, output: Path, checkpoints: Sequence[Path],
                      *flags: object) -> str:
    """Return the inference of a generator, of one plane or of two, into a folder."""
    planes = [flag for pair in zip(("--checkpoint", "--checkpoint_coronal"), checkpoints, strict=False)
              for flag in pair]
    return command("eval_3d_sagittal_twostage.py", *planes, "--dataroot", place.dataroot, "--heatmaps",
                   place.heatmaps, "--cohort", place.cohort, "--output", output,
                   *shlex.split(args.synthesis_flags), *flags, args=args)


def loss_command(args: Namespace, place: Place, output: Path) -> str:
    """Return the measurement of a generator's height loss."""
    return command("evaluation/RHLV_quantification.py", "--dataroot", place.dataroot, "--output", output,
                   "--cohort", place.cohort, "--trained_on", "none", "--no_figures", args=args)


def method_steps(args: Namespace, place: Place, cohort: Cohort) -> list[Step]:
    """Return the steps of the methods on the held-out and the calibration split."""
    checkpoints = [path for path in (args.checkpoint, args.checkpoint_coronal) if path]
    splits = [split for split in (CALIBRATION, HELD_OUT) if cohort.splits.get(split)]
    steps: list[Step] = [(f"Synthesize healthy vertebrae, split {split}",
                          synthesis_command(args, place, place.out, checkpoints, "--split", split))
                         for split in splits]
    steps.append(("Measure the relative height loss", loss_command(args, place, place.out)))
    return steps + baseline_steps(args, place, splits, bool(cohort.splits.get("train")))


def baseline_steps(args: Namespace, place: Place, splits: Sequence[str], can_fit: bool) -> list[Step]:
    """Return the steps of the baselines: fitted ones where there are, else those of the cohort's split train.

    Raises:
        InputError: --baselines names no file.
    """
    def asked(out: Path, *flags: object) -> str:
        return command("evaluation/baselines.py", "--cohort", place.cohort, "--dataroot", place.dataroot,
                       "--out", out, *flags, args=args)

    if args.no_baselines:
        return []
    model, steps = baseline_model(args), []
    if model is None and not can_fit:
        print(f"baselines: left out; {place.cohort} has no split train to fit them on, and neither "
              f"--baselines nor weights/{MODEL_PATTERN} is there")
        return []
    if model is None:
        folder = place.out / BASELINES
        model = folder / "baselines.json"
        steps = [("Fit the baselines", asked(folder, "--fit_only"))]
    return steps + [(f"Ask the baselines, split {split}",
                     asked(place.baselines(split), "--split", split, "--model", model)) for split in splits]


def baseline_model(args: Namespace) -> Path | None:
    """Return the fitted baselines: --baselines, or the shipped ones; None where there are none.

    Raises:
        InputError: --baselines names no file.
    """
    if args.baselines and not args.baselines.is_file():
        raise InputError(f"--baselines {args.baselines}: expected fitted baselines, found no file; fit them "
                         f"with evaluation/baselines.py --fit_only, or leave the flag out")
    return args.baselines or next(iter(visible(ROOT / "weights", MODEL_PATTERN)), None)


def asked_baselines(commands: Sequence[Step]) -> Path | None:
    """Return the fitted baselines that commands ask, by hand or fitted on the way; None where none do."""
    for _, line in commands:
        script, *flags = shlex.split(line)
        if script == "evaluation/baselines.py" and "--model" in flags:
            return Path(flags[flags.index("--model") + 1])
    return None


def healthy_steps(args: Namespace, place: Place, patients: Sequence[str]) -> list[Step]:
    """Put the bodies before the fracture where the stages look for masks; return how they are straightened.

    The stages know nothing of truth: they straighten these masks along a curve of their own.
    """
    from phantom.write_patient import truth_folder

    found = []
    for patient in patients:
        source = truth_folder(place.raw, patient) / "healthy_body.nii.gz"
        target = raw_mask(place.healthy_raw, patient)
        if not source.is_file():
            continue
        found.append(patient)
        if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
            make_folder(target.parent)
            with atomic_path(target) as temporary:
                temporary.write_bytes(source.read_bytes())
    if not found:
        return []
    return [("Find the bodies before the fracture",
             command("straighten/location_json_local.py", "--raw", place.healthy_raw, args=args)),
            ("Straighten them",
             command("straighten/straighten_mask_3d.py", "--raw", place.healthy_raw, "--out", place.healthy,
                     "--labels_only", args=args))]
