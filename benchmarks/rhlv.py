"""Relative height loss and its map: whole arrays against loops over columns.

    python benchmarks/rhlv.py

The plain loop unpacks both labels as float64, looks for connected pieces in the whole volume, and goes from
slice to slice and from column to column. Both sides measure as `evaluation.heights` and `util.body_heights`
define it, and write the map as NIfTI. The details hold what the two pictures of a vertebra take on top.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import Row, Settings, alternate, run_benchmark, seconds
from benchmarks.phantom_data import PhantomData, phantom_data
from util.body_heights import CENTRAL_SHARE, RIM_FRACTION, RIM_SHARE, SLIVER_FRACTION, THIRDS
from util.cli import run_script
from util.paths import fake_label, make_folder, straightened_label
from util.vertebrae import split_case
from util.volume import Volume, read_volume, write_volume

VERTEBRAE = 6
GROWN_ROWS = 3     # by which the body before the fracture is higher: losses of about a tenth
TOLERANCE = 1e-6   # of losses, between the sides

Extent = tuple[int, int]


def measure(settings: Settings) -> list[Row]:
    """Time both sides and compare the losses of thirds and every value of the map."""
    from evaluation.rhlv.records import Folders, read_measured
    from evaluation.RHLV_quantification import draw_case, quantify_case

    data = phantom_data(settings.scratch, settings.jobs)
    folders = Folders(data.dataroot, settings.scratch / "rhlv")
    cases = data.cases()[::len(data.cases()) // VERTEBRAE][:VERTEBRAE]
    grow_bodies(data, folders.output, cases)
    make_folder(folders.output / "RHLV")
    plain_folder = settings.scratch / "rhlv_plain"
    plain_s, fast_s = alternate(lambda: [plain_case(case, folders, plain_folder) for case in cases],
                                lambda: [quantify_case(case, folders) for case in cases], settings.rounds)

    def draw() -> None:
        for case in cases:
            draw_case(case, folders, None)

    pictures_s = seconds(draw)
    apart = 0.0
    for case in cases:
        losses = plain_case(case, folders, plain_folder)
        maps = [read_volume(path).array for path in (plain_folder / f"{case}.nii.gz", folders.loss_map(case))]
        apart = max(apart, float(np.abs(losses - read_measured(case, folders).measured["rhlv"][:3]).max()),
                    float(np.nanmax(np.abs(maps[0] - maps[1]))) / 100,
                    float((np.isnan(maps[0]) != np.isnan(maps[1])).sum()))
    return [Row("rhlv", plain_s / len(cases), fast_s / len(cases), "vertebra", apart <= TOLERANCE,
                f"losses differ by {apart:.0e}", {"pictures_seconds_per_vertebra": pictures_s / len(cases)})]


def grow_bodies(data: PhantomData, output: Path, cases: Sequence[str]) -> None:
    """Write labels in which each target is some rows higher, as a synthesis would."""
    for case in cases:
        label = read_volume(straightened_label(data.dataroot, case))
        target = split_case(case)[1]
        body = label.array == target
        for _ in range(GROWN_ROWS):
            body[1:] |= body[:-1]
        grown = np.where(body & (label.array == 0), target, label.array).astype(np.uint8)
        write_volume(fake_label(output, case), Volume(grown, label.affine))


def plain_case(case: str, folders: Any, out: Path) -> np.ndarray:
    """Measure one vertebra, write its map, return the losses of its thirds (3,)."""
    import nibabel as nib

    target, bodies, affine = split_case(case)[1], [], np.eye(4)
    for path in (straightened_label(folders.dataroot, case), fake_label(folders.output, case)):
        image: Any = nib.load(path)
        bodies.append(PlainBody(image.get_fdata() == target))
        affine = image.affine
    original, synthetic = bodies
    write_volume(out / f"{case}.nii.gz", Volume(100 * plain_map(original, synthetic)[None], affine))
    before, after = plain_thirds(synthetic), plain_thirds(original)
    return np.array([(high - low) / high for high, low in zip(before, after, strict=True)])


class PlainBody:
    """A body whose columns are measured one by one."""

    def __init__(self, mask: np.ndarray) -> None:
        from scipy import ndimage

        pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
        sizes = [int((pieces == piece).sum()) for piece in range(1, count + 1)]
        self.mask = pieces == 1 + sizes.index(max(sizes))
        columns, slices = self.mask.shape[1:]
        self.heights = [[self.height(column, index) for column in range(columns)] for index in range(slices)]
        areas = [float(sum(heights)) for heights in self.heights]
        self.slices = plain_trim(areas, SLIVER_FRACTION * statistics.median(filter(None, areas)), 1.0)
        filled = [height for heights in self.heights for height in heights if height]
        low = RIM_FRACTION * statistics.median(filled)
        self.depth = [plain_trim(heights, low, RIM_SHARE) for heights in self.heights]

    def height(self, column: int, index: int) -> int:
        """Return the height of one column."""
        rows = np.flatnonzero(self.mask[:, column, index])
        return int(rows[-1] - rows[0]) + 1 if len(rows) else 0


def plain_trim(profile: Sequence[float], threshold: float, longest_share: float) -> Extent:
    """Return the extent of a profile without its low ends, if they are short."""
    filled = [place for place, value in enumerate(profile) if value]
    if not filled:
        return 0, 0
    first, last = filled[0], filled[-1] + 1
    front = back = 0
    while first + front < last and profile[first + front] < threshold:
        front += 1
    while last - back > first and profile[last - back - 1] < threshold:
        back += 1
    if first + front == last:
        return first, last
    longest = longest_share * (last - first)
    return first + (front if front <= longest else 0), last - (back if back <= longest else 0)


def plain_thirds(body: PlainBody) -> list[float]:
    """Return the mean height of each third over the central slices."""
    first, last = body.slices
    half, middle = CENTRAL_SHARE * (last - first) / 2, (first + last) / 2
    central = [index for index in range(first, last) if abs(index + 0.5 - middle) <= half]
    sums = [0.0] * len(THIRDS)
    for index in central:
        front, back = body.depth[index]
        width = (back - front) / len(THIRDS)
        for third in range(len(THIRDS)):
            low, high = third * width, (third + 1) * width
            for column in range(back - front):
                share = max(0.0, min(column + 1, high) - max(column, low))
                sums[third] += share * body.heights[index][front + column] / width
    return [total / len(central) for total in sums]


def plain_map(original: PlainBody, synthetic: PlainBody) -> np.ndarray:
    """Return the loss of every column of the synthetic body, (columns, slices) float32, NaN outside."""
    loss = np.full(synthetic.mask.shape[1:], np.nan, np.float32)
    for index in range(*synthetic.slices):
        relative = (index + 0.5 - synthetic.slices[0]) / (synthetic.slices[1] - synthetic.slices[0])
        match = int(original.slices[0] + relative * (original.slices[1] - original.slices[0]))
        first, last = synthetic.depth[index]
        for column in range(first, last):
            place = (column + 0.5 - first) / (last - first)
            high, low = synthetic.heights[index][column], interpolated(original, match, place)
            loss[column, index] = (high - low) / high if high else np.nan
    return loss


def interpolated(body: PlainBody, index: int, place: float) -> float:
    """Return the height at a relative depth of a slice, linear between columns' middles."""
    first, last = body.depth[index]
    column = min(max(place * (last - first) - 0.5, 0.0), last - first - 1.0)
    front = min(int(column), last - first - 2)
    low, high = body.heights[index][first + front], body.heights[index][first + front + 1]
    return low + (column - front) * (high - low)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the figures."""
    return run_benchmark(argv, __doc__, "rhlv", measure)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
