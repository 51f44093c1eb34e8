"""Writes heatmaps of the evidence of fracture, one volume per case of the cohort.

Judges every slice of every whole body in the straightened volume with the classifier that
Attention/train_classifier.py makes, and explains it with Grad-CAM++. One volume serves both planes of the
generator. Values are 0..1 on a scale shared by the volume, 1 = certain and strongest evidence. Beside the
heatmaps, records/ keeps what each was made of: other weights or files make it anew.
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

HEATMAP_VOXEL_BYTES = 4  # float32


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
    from util.device import choose_device, use_full_precision
    from util.origin_records import recorded
    from util.paths import heatmap_path, heatmap_record
    from util.volume import Volume, write_volume

    use_full_precision()
    origin = origin_of(case, dataroot, checkpoint)
    classifier, settings = _classifier(file_version(checkpoint), device)
    ct, label = read_straightened(dataroot, case)
    place = choose_device(device)
    heat, _ = volume_heatmap(classifier, settings, ct.array, label.array, batch_slices, place)
    path = heatmap_path(out, case)
    path.unlink(missing_ok=True)  # first: one of other weights that has lost its record would go by its time
    with recorded(heatmap_record(out, case), *origin):
        write_volume(path, Volume(heat, ct.affine))


def origin_of(case: str, dataroot: Path, checkpoint: Path) -> tuple[str, str]:
    """Return what a heatmap made now would be made of: digests of the weights and of the case's files."""
    from util.origin_records import ingredients_of, recipe_of
    from util.paths import straightened_ct, straightened_label

    sources = straightened_ct(dataroot, case), straightened_label(dataroot, case)
    return recipe_of("heatmap", [checkpoint]), ingredients_of(sources)


def is_complete(case: str, *, dataroot: Path, out: Path, checkpoint: Path) -> bool:
    """Tell whether a heatmap is whole, was made by these weights, and of the case's files as they are now.

    One without a record, of an earlier version of the software, must be no older than CT and weights.
    """
    from util.nifti_file import is_whole
    from util.origin_records import is_made_of
    from util.paths import heatmap_path, heatmap_record, is_up_to_date, straightened_ct
    from util.volume import STRAIGHTENED_SHAPE

    heatmap, record = heatmap_path(out, case), heatmap_record(out, case)
    if record.is_file():
        whole = is_whole(heatmap, STRAIGHTENED_SHAPE, HEATMAP_VOXEL_BYTES)
        return whole and is_made_of(record, *origin_of(case, dataroot, checkpoint))
    return is_up_to_date([heatmap], [straightened_ct(dataroot, case), checkpoint])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit status."""
    args = build_parser().parse_args(argv)

    from Attention.checkpoint import read_description
    from util.device import choose_device
    from util.paths import make_folder
    from util.stage import run_stage
    from util.vertebrae import read_cohort

    if args.device == "cuda" and not args.scheduler:
        choose_device(args.device)  # said once here, not for every case
    description = read_description(args.checkpoint)
    print(f"classifier: {args.checkpoint} {json.dumps(description['settings'])}")
    cohort = read_cohort(args.cohort)
    dataroot = args.dataroot or Path(cohort.paths.get("straightened", "dataset/straightened"))
    out = make_folder(args.out or cohort.paths.get("heatmap", "Attention/heatmap"))
    files = {"dataroot": dataroot, "out": out, "checkpoint": args.checkpoint}
    return run_stage(
        "heatmaps",
        partial(write_heatmap, **files, device=args.device, batch_slices=args.batch_slices),
        cohort.cases(),
        partial(is_complete, **files),
        jobs=args.jobs,
        overwrite=args.overwrite,
        scheduler=args.scheduler,
    )


if __name__ == "__main__":
    raise SystemExit(run_script(main))
