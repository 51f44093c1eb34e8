"""What each stage costs per vertebra: time, memory and disk, and what that means for a million CTs.

    python benchmarks/scaling.py --patients 2 6

Runs every stage on phantom cohorts of these sizes, one process and one thread each, so that the figures are
those of one core. Time and disk are taken as `fixed + per vertebra * vertebrae`, fitted by least squares;
memory as the most that the process held. Writes `<scratch>/scaling.json` and prints the tables of
docs/scaling.md; with --docs also writes `scaling.json` and puts the tables into `scaling.md` there.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import machine
from benchmarks.phantom_data import SEED
from util.cli import run_script, whole_number
from util.errors import InputError
from util.marked_page import fill_page
from util.paths import write_json
from util.steps import ROOT
from util.vertebrae import read_cohort
from util.wording import counted

CTS = (10_000, 1_000_000)          # extrapolated to
CORES = (16, 1024)                 # of one machine, of a cluster
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
           "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@dataclass(frozen=True)
class Stage:
    """A command and the folders that it fills; `{root}` stands for the cohort's folder."""

    name: str
    command: str
    fills: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One stage on one cohort."""

    stage: str
    vertebrae: int
    seconds: float
    memory_mb: float
    disk_mb: float


@dataclass(frozen=True)
class Cost:
    """A stage's cost as fitted."""

    stage: str
    fixed_s: float
    vertebra_s: float
    memory_mb: float   # at the largest size
    vertebra_mb: float  # on disk


COHORT = "--cohort {root}/cohort.json"
STRAIGHTENED = f"{COHORT} --dataroot {{root}}/straightened"
WEIGHTS = ("--checkpoint weights/phantom_sagittal.safetensors "
           "--checkpoint_coronal weights/phantom_coronal.safetensors")
STAGES = (
    Stage("find bodies", f"straighten/location_json_local.py --raw {{root}}/raw {COHORT}", ()),
    Stage("straighten", f"straighten/straighten_mask_3d.py --raw {{root}}/raw --out {{root}}/straightened "
          f"{COHORT}", ("straightened",)),
    Stage("heatmaps", f"Attention/grad_CAM_3d_sagittal.py {STRAIGHTENED} --out {{root}}/heatmap "
          "--checkpoint weights/phantom_classifier.safetensors", ("heatmap",)),
    Stage("synthesize", f"eval_3d_sagittal_twostage.py {STRAIGHTENED} --heatmaps {{root}}/heatmap "
          f"--output {{root}}/output --threads 1 {WEIGHTS}", ("output",)),
    Stage("RHLV and maps", f"evaluation/RHLV_quantification.py {STRAIGHTENED} --output {{root}}/output "
          "--trained_on none --no_figures", ("output/RHLV",)),
)


def measure(root: Path, patients: int) -> list[Run]:
    """Make a cohort in an empty folder and run every stage on it, from nothing.

    Raises:
        InputError: the folder is there already, or a command fails.
    """
    if root.exists():
        raise InputError(f"{root}: expected no folder, since what is complete costs nothing, found one; "
                         f"delete it or choose another --scratch")
    run(f"phantom/make_cohort.py --out {{root}}/raw {COHORT} --patients {patients} --seed {SEED} "
        "--scanner isotropic", root)
    vertebrae = len(read_cohort(root / "cohort.json").cases())
    runs = []
    for stage in STAGES:
        seconds, memory_mb = run(stage.command, root)
        disk_mb = sum(size_mb(root / folder) for folder in stage.fills)
        runs.append(Run(stage.name, vertebrae, seconds, memory_mb, disk_mb))
        print(f"{counted(patients, 'patient')}, {stage.name}: {seconds:.1f} s, {memory_mb:.0f} MB of memory, "
              f"{disk_mb:.1f} MB on disk", flush=True)
    return runs


def run(command: str, root: Path) -> tuple[float, float]:
    """Run a script of the project in one thread; return its seconds and the most memory it held, in MB."""
    script, *flags = shlex.split(command.format(root=shlex.quote(str(root))))
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, ROOT / script, *flags], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env=os.environ | dict.fromkeys(THREADS, "1"))
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise InputError(f"{script}: expected exit status 0, found {os.waitstatus_to_exitcode(status)}; "
                         f"run it alone to see why: python {script} {shlex.join(flags)}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def size_mb(folder: Path) -> float:
    """Return what a folder's files take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def fit(runs: Sequence[Run]) -> list[Cost]:
    """Fit each stage's fixed cost and its cost per vertebra."""
    costs = []
    for stage in STAGES:
        own = [one for one in runs if one.stage == stage.name]
        slope, fixed = np.polyfit([one.vertebrae for one in own], [one.seconds for one in own], 1)
        largest = max(own, key=lambda one: one.vertebrae)
        costs.append(Cost(stage.name, max(float(fixed), 0.0), float(slope), largest.memory_mb,
                          largest.disk_mb / largest.vertebrae))
    return costs


def cost_table(costs: Sequence[Cost]) -> str:
    """Return the measured costs as a Markdown table."""
    lines = ["| stage | at start, s | per vertebra, s | memory of a process, MB | disk per vertebra, MB |",
             "| --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {cost.stage} | {cost.fixed_s:.1f} | {cost.vertebra_s:.2f} | {cost.memory_mb:.0f} | "
              f"{cost.vertebra_mb:.2f} |" for cost in costs]
    return "\n".join(lines)


def outlook_table(costs: Sequence[Cost], vertebrae_per_ct: float) -> str:
    """Return what many CTs would take, as a Markdown table; stages without common state scale with cores."""
    head = [f"{cts:,} CTs, {cores} cores" for cts, cores in zip(CTS, CORES, strict=True)]
    lines = [f"| stage | {' | '.join(head)} | {' | '.join(f'disk, {cts:,} CTs' for cts in CTS)} |",
             "| --- | ---: | ---: | ---: | ---: |"]
    for cost in [*costs, total(costs)]:
        hours = [f"{cts * vertebrae_per_ct * cost.vertebra_s / cores / 3600:.1f} h"
                 for cts, cores in zip(CTS, CORES, strict=True)]
        disk = [f"{cts * vertebrae_per_ct * cost.vertebra_mb / 1e6:.2f} TB" for cts in CTS]
        lines.append(f"| {cost.stage} | {' | '.join(hours + disk)} |")
    return "\n".join(lines)


def total(costs: Sequence[Cost]) -> Cost:
    """Return the sum of all stages."""
    return Cost("all stages", sum(cost.fixed_s for cost in costs), sum(cost.vertebra_s for cost in costs),
                max(cost.memory_mb for cost in costs), sum(cost.vertebra_mb for cost in costs))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=whole_number(1), nargs="+", default=[2, 6],
                        help="sizes of the cohorts; two or more")
    parser.add_argument("--scratch", type=Path, default=Path("output/scaling"), help="folder for the cohorts")
    parser.add_argument("--docs", type=Path, help="also write scaling.json and the tables of scaling.md here")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, fit, print the tables; return 0."""
    args = build_parser().parse_args(argv)
    if len(set(args.patients)) < 2:
        raise InputError(f"--patients: expected two different sizes or more, found {args.patients}; "
                         f"name others")
    runs = [one for patients in sorted(set(args.patients))
            for one in measure((args.scratch / f"{patients}_patients").absolute(), patients)]
    costs = fit(runs)
    per_ct = max(one.vertebrae for one in runs) / max(args.patients)
    tables = {"machine": f"Measured on {machine('cpu')}, of which one was used; phantom CTs of {per_ct:.0f} "
              "vertebrae.", "cost": cost_table(costs), "outlook": outlook_table(costs, per_ct)}
    print("\n\n".join(tables.values()))
    result: dict[str, Any] = {"machine": machine("cpu"), "vertebrae_per_ct": per_ct,
                              "runs": [asdict(one) for one in runs],
                              "costs": [asdict(cost) for cost in costs]}
    for folder in filter(None, (args.scratch, args.docs)):
        write_json(folder / "scaling.json", result)
    if args.docs:
        fill_page(args.docs / "scaling.md", tables)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
