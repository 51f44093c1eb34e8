"""Writes heatmaps of the evidence of fracture, one volume per case of the cohort.

Judges every slice of every whole body in the straightened volume with the classifier that
Attention/train_classifier.py makes, and explains it with Grad-CAM++. One volume serves both planes of the
generator. Values are 0..1 on a scale shared by the volume, 1 = certain and strongest evidence.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from Attention.checkpoint import OWN_CHECKPOINT
from util.cli import add_stage_arguments, run_script, whole_number
from util.paths import FileVersion, file_version


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add(
        "--dataroot",
        type=Path,
        help="folder of straightened cases; without it the cohort's `paths`, else dataset/straightened",
    )
    add("--cohort", type=Path, default=Path("vertebra_data.json"), help="cohort: which cases")
    add(
        "--out",
        type=Path,
        help="folder for the heatmaps; without it the cohort's `paths`, else Attention/heatmap",
    )
    add(
        "--checkpoint",
        type=Path,
        default=OWN_CHECKPOINT,
        help="classifier, as Attention/train_classifier.py makes it; for phantoms "
        "weights/phantom_classifier.safetensors",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    add(
        "--batch_slices",
        type=whole_number(1),
        help="slices per pass, which bounds the memory; without it 16 on the CPU, 64 on a GPU",
    )
    add_stage_arguments(parser)
    return parser


@lru_cache(maxsize=1)
def _classifier(version: FileVersion, device: str) -> Any:
    """The network and its settings, read once per process."""
    from Attention.checkpoint import load_classifier
    from util.device import choose_device

    return load_classifier(version.path, choose_device(device))


def write_heatmap(
    case: str, *, dataroot: Path, out: Path, checkpoint: Path, device: str, batch_slices: int | None
) -> None:
    """Writes the heatmap of one straightened case."""
    from Attention.volume_heatmap import volume_heatmap
    from data.straightened import read_straightened
    from util.device import choose_device
    from util.paths import heatmap_path
    from util.volume import Volume, write_volume

    classifier, settings = _classifier(file_version(checkpoint), device)
    ct, label = read_straightened(dataroot, case)
    place = choose_device(device)
    heat, _ = volume_heatmap(classifier, settings, ct.array, label.array, batch_slices, place)
    write_volume(heatmap_path(out, case), Volume(heat, ct.affine))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit status."""
    args = build_parser().parse_args(argv)

    from Attention.checkpoint import read_description
    from util.device import choose_device
    from util.paths import heatmap_path, is_up_to_date, make_folder, straightened_ct
    from util.stage import run_stage
    from util.vertebrae import read_cohort

    if args.device == "cuda" and not args.scheduler:
        choose_device(args.device)  # said once here, not for every case
    description = read_description(args.checkpoint)
    print(f"classifier: {args.checkpoint} {json.dumps(description['settings'])}")
    cohort = read_cohort(args.cohort)
    dataroot = args.dataroot or Path(cohort.paths.get("straightened", "dataset/straightened"))
    out = make_folder(args.out or cohort.paths.get("heatmap", "Attention/heatmap"))
    work = partial(
        write_heatmap,
        dataroot=dataroot,
        out=out,
        checkpoint=args.checkpoint,
        device=args.device,
        batch_slices=args.batch_slices,
    )
    return run_stage(
        "heatmaps",
        work,
        cohort.cases(),
        lambda case: is_up_to_date([heatmap_path(out, case)],
                                   [straightened_ct(dataroot, case), args.checkpoint]),
        jobs=args.jobs,
        overwrite=args.overwrite,
        scheduler=args.scheduler,
    )


if __name__ == "__main__":
    raise SystemExit(run_script(main))
