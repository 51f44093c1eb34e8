"""Write one page that shows a whole run: cohort, synthesis, height loss, grades, pictures.

Reads what lies in the output folder and shows what is there; a stage that was not run has no section. Writes
report/index.html in the output folder, with its pictures beside it, so that the report folder can be copied.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.page.results import read_gradings, read_if_there, read_predictions, read_rows
from util.cli import add_stage_arguments, run_script, whole_number
from util.errors import InputError
from util.paths import atomic_path, fake_label, make_folder, visible
from util.stage import run_stage
from util.vertebrae import Cohort, grade_counts, read_cohort
from util.wording import named

if TYPE_CHECKING:
    from evaluation.page.vertebrae import VertebraEntry

TITLE = "Pseudo-healthy vertebrae and height loss"
SLICES_CAPTION = "Mid-sagittal slice: original (left) and synthetic (right), bodies outlined"
GENERATION = Path("generation", "generation.json")
CALIBRATION = Path("RHLV", "calibration.json")


@dataclass(frozen=True)
class Sources:
    """Where a report's content comes from; picklable."""

    dataroot: Path
    output: Path
    raw: Path

    @property
    def folder(self) -> Path:
        """Folder of the report."""
        return self.output / "report"

    def slices(self, case: str) -> Path:
        """Picture of the mid-sagittal slices."""
        return self.folder / "slices" / f"{case}.jpg"

    def copied(self, case: str) -> list[tuple[str, Path, Path]]:
        """Caption, original and copy of the pictures that the height loss stage made."""
        rhlv = self.output / "RHLV"
        return [(caption, rhlv / kind / f"{case}.png", self.folder / kind / f"{case}.png")
                for kind, caption in (("maps", "Axial map of height loss"),
                                      ("curves", "Height and loss, anterior to posterior"))]


def make_pictures(case: str, sources: Sources) -> None:
    """Draw a case's slices, and copy its map and curve."""
    from evaluation.page.pictures import draw_slices

    for _, original, copy in sources.copied(case):
        if original.is_file():
            copy_file(original, copy)
    draw_slices(sources.slices(case), case, sources.dataroot, sources.output)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, atomically."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def has_pictures(case: str, sources: Sources) -> bool:
    """Tell whether a case's pictures are there and younger than its synthesis."""
    slices, synthetic = sources.slices(case), fake_label(sources.output, case)
    if not slices.is_file() or not synthetic.is_file():
        return False
    copies = [(original, copy) for _, original, copy in sources.copied(case) if original.is_file()]
    return slices.stat().st_mtime >= synthetic.stat().st_mtime and all(
        copy.is_file() and copy.stat().st_mtime >= original.stat().st_mtime for original, copy in copies)


def vertebra_entries(rows: Sequence[dict[str, Any]], sources: Sources) -> "list[VertebraEntry]":
    """Return the entries of the page; pictures are those that were made."""
    from evaluation.page.vertebrae import VertebraEntry

    predictions = read_predictions(sources.output)
    entries = []
    for row in rows:
        case = row["case"]
        pictures = [(SLICES_CAPTION, sources.slices(case)),
                    *((caption, copy) for caption, original, copy in sources.copied(case)
                      if original.is_file())]  # else the copy is of an earlier measurement
        shown = [(caption, path.relative_to(sources.folder).as_posix())
                 for caption, path in pictures if path.is_file()]
        entries.append(VertebraEntry(row, *predictions.get(case, ("", "")), shown))
    return entries


def headline(rows: Sequence[dict[str, Any]], grading: Any, generation: Any) -> list[tuple[str, str]]:
    """Return the most important figures, each with its name."""
    patients = len({row["patient"] for row in rows})
    tiles = [(str(patients), named(patients, "patient")),
             (str(len(rows)), f"{named(len(rows), 'vertebra', 'vertebrae')} measured"),
             (str(sum(row["grade"] > 0 for row in rows)), "of them fractured")]
    if generation:
        error = generation["measures"]["height_difference_absolute"]["mean"]
        tiles += [(f"{100 * error:.1f} %", "height error, healthy")] if error is not None else []
    if grading and grading["holdout"]:
        tiles.append((f"{grading['holdout']['metrics']['macro_f1']['value']:.2f}", "macro F1, hold-out"))
    return tiles


def add_sections(cohort: Cohort, sources: Sources, rows: Sequence[dict[str, Any]],
                 checkpoint: Path | None) -> None:
    """Add every section whose stage was run to the open page."""
    from evaluation.generation_eval_sagittal import MEASURES
    from evaluation.page import writing as page
    from evaluation.page.truth import add_truth, compare_with_truth
    from evaluation.page.vertebrae import add_vertebrae
    from evaluation.page.weights import add_weights, relation, weights_used

    page.add_cohort({split: grade_counts(cohort, split) for split in cohort.splits},
                    {split: len(cohort.patients(split)) for split in cohort.splits if cohort.splits[split]})
    used = weights_used(cohort.cases(), sources.output)
    add_weights(used)
    if checkpoint:
        add_training(checkpoint, sources, relation(used, checkpoint))
    generation = read_if_there(sources.output / GENERATION)
    if generation:
        page.add_generation(generation, MEASURES)
    compared, known = compare_with_truth(rows, sources.raw)
    if known:
        add_truth(compared, known, sources.folder)
    for metrics, folder in read_gradings(sources.output):
        scatter = folder.relative_to(sources.output / "grading") / "scatter.png"
        copy_file(folder / scatter.name, sources.folder / scatter)
        page.add_grading(metrics, scatter.as_posix(), "-".join(folder.relative_to(sources.output).parts))
    if rows:
        add_vertebrae(vertebra_entries(rows, sources), read_if_there(sources.output / CALIBRATION))


def add_training(checkpoint: Path, sources: Sources, relation: str) -> None:
    """Draw a run's log and add it to the open page, with what it has to do with the results."""
    from evaluation.page import writing as page
    from evaluation.page.pictures import draw_training

    lines = training_lines(checkpoint)
    draw_training(sources.folder / "training.png", lines)
    page.add_training(checkpoint.name, "training.png", lines[-1]["step"], relation)


def training_lines(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log.

    Raises:
        InputError: the folder has none.
    """
    from util.run_log import read_lines

    lines = read_lines(checkpoint / "log.jsonl")
    if not lines:
        raise InputError(f"--checkpoint {checkpoint}: expected a run of train.py with log.jsonl, found none; "
                         f"check the folder or leave the flag out")
    return lines


def write_report(cohort: Cohort, sources: Sources, rows: Sequence[dict[str, Any]],
                 checkpoint: Path | None) -> Path:
    """Write the page and return its path; the cases' pictures are there already."""
    from evaluation.page import writing as page

    make_folder(sources.folder)
    gradings = [metrics for metrics, _ in read_gradings(sources.output)]
    figures = headline(rows, next(iter(gradings), None), read_if_there(sources.output / GENERATION))
    document = page.new_page(TITLE)
    with document:
        page.add_header(TITLE, f"Cohort {cohort.path}, results in {sources.output}", figures)
        with page.main_part():
            add_sections(cohort, sources, rows, checkpoint)
    with atomic_path(sources.folder / "index.html") as temporary:
        temporary.write_text(document.render(pretty=False), encoding="utf-8")
    return sources.folder / "index.html"


def check_results(output: Path) -> None:
    """Check that there is something to show.

    Raises:
        InputError: there is no folder, or no stage has left its results in it.
    """
    shown = ("RHLV/rhlv.csv", GENERATION.as_posix(), "label_fake/*.nii.gz")
    if not any(visible(output, pattern) for pattern in shown) and not read_gradings(output):
        found = "none" if output.is_dir() else "no folder"
        raise InputError(f"--output {output}: expected results of the other stages, found {found}; run "
                         f"eval_3d_sagittal_twostage.py and evaluation/RHLV_quantification.py first")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=Path("output"), help="results of the other stages; gets report/")
    add("--dataroot", type=Path, help="straightened volumes; if not given, the cohort's 'straightened' path, "
        "else dataset/straightened")
    add("--raw", type=Path, help="folder of the patients, where phantoms have their truth; if not given, the "
        "cohort's 'raw' path, else dataset/raw")
    add("--cohort", type=Path, default=Path("vertebra_data.json"), help="cohort file")
    add("--checkpoint", type=Path, help="folder of a training run, to show its course")
    add("--max_cards", type=whole_number(0), default=200,
        help="vertebrae shown with pictures, largest loss first")
    add_stage_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures, write the page, say where it is."""
    args = build_parser().parse_args(argv)
    cohort = read_cohort(args.cohort)
    check_results(args.output)
    if args.checkpoint:
        training_lines(args.checkpoint)  # told before pictures are drawn
    dataroot = args.dataroot or Path(cohort.paths.get("straightened", "dataset/straightened"))
    sources = Sources(dataroot, args.output, args.raw or Path(cohort.paths.get("raw", "dataset/raw")))
    rows = read_rows(args.output)
    status = run_stage("report", partial(make_pictures, sources=sources),
                       [row["case"] for row in rows[:args.max_cards]], partial(has_pictures, sources=sources),
                       jobs=args.jobs, overwrite=args.overwrite, scheduler=args.scheduler)
    print(f"page: {write_report(cohort, sources, rows, args.checkpoint)}")
    return status


if __name__ == "__main__":
    raise SystemExit(run_script(main))
