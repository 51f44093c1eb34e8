"""Cases as training reads them, and what each epoch draws from them.

`load_case` reads and crops a straightened case and its heatmap. `cut_vertebra` keeps the slices of its body.
`epoch_batches` draws: every vertebra once an epoch, one of its slices, the centre most likely, and how it is
augmented. All chance of an epoch follows from the seed and the epoch's number, so that a run can go on from
anywhere.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from data.augmentation import Augmentation, draw_augmentation
from data.slice_input import draw_training_context, inference_context
from data.straightened import read_straightened
from data.volume_layout import row_major
from util.body_heights import body_measures
from util.errors import InputError
from util.geometry import GAP_ROWS, row_extent
from util.paths import heatmap_path, straightened_ct
from util.vertebrae import split_case
from util.volume import Volume, crop_columns, read_volume

if TYPE_CHECKING:
    from data.slice_cache import SliceStore

SLICE_AXIS = {"sagittal": 2, "coronal": 1}
END_WEIGHT = 0.5        # of a slice at the ends of the body, against 1 at the centre
MAKE_HEATMAPS = "python Attention/grad_CAM_3d_sagittal.py"


class CaseVolumes(NamedTuple):
    """A straightened case, cropped to its central columns; (R, C, Z) uint8."""

    ct: np.ndarray              # 0..255 is HU -300..800
    label: np.ndarray           # vertebral bodies
    heatmap: np.ndarray | None  # 0..255: evidence of fracture; None where it is not used
    affine: np.ndarray          # 4x4 of the uncropped volume


class SliceImages(Protocol):
    """Images of a vertebra's slices, as an array (S, K, R, C) uint8 has them."""

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> np.ndarray:
        """Return one slice, (K, R, C)."""
        ...


@dataclass(frozen=True)
class VertebraSlices:
    """The slices of one vertebra that may be drawn, in one plane.

    Attributes:
        case: its name.
        images: (S, K, R, C) uint8: CT; masks (bit 0 the body, bit 1 the healthy neighbours); heatmap if used.
        distance: (S,) float32, -1..1 from one end of the body to the other.
        top, bottom: rows of the vertebra, over all its slices.
        measures_mm: (5,) heights of its thirds, depth and width; None where it cannot be measured.
    """

    case: str
    images: SliceImages
    distance: np.ndarray
    top: int
    bottom: int
    measures_mm: np.ndarray | None = None


def load_case(dataroot: str | Path, case: str, heatmaps: str | Path | None, crop_cols: int) -> CaseVolumes:
    """Read a straightened case.

    Args:
        dataroot: holds CT/ and label/.
        case: `<patient>_<label>`.
        heatmaps: folder of heatmaps; None to do without.
        crop_cols: central columns of axis 1 that are kept.

    Raises:
        InputError: as `read_straightened`, or the heatmap is missing or of another form.
    """
    ct, label = read_straightened(dataroot, case)
    heat = None if heatmaps is None else _read_heatmap(
        heatmap_path(heatmaps, case), ct, straightened_ct(dataroot, case), crop_cols)
    columns = [row_major(crop_columns(array, crop_cols)) for array in (ct.array, label.array)]
    return CaseVolumes(columns[0], columns[1], heat, ct.affine)


def _read_heatmap(path: Path, ct: Volume, ct_path: Path, crop_cols: int) -> np.ndarray:
    """Read a heatmap's central columns as uint8, 255 being the strongest evidence."""
    if not path.is_file():
        raise InputError(f"{path}: expected a heatmap, found none; run: {MAKE_HEATMAPS}, "
                         f"or train a generator without by --attention none")
    heat = read_volume(path).array
    if heat.shape != ct.array.shape:
        raise InputError(f"{path}: expected the shape of {ct_path} {ct.array.shape}, found {heat.shape}; "
                         f"run: {MAKE_HEATMAPS} --overwrite")
    low, high = float(heat.min()), float(heat.max())
    if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails too
        raise InputError(f"{path}: expected values in 0..1, found {low:g}..{high:g}; "
                         f"run: {MAKE_HEATMAPS} --overwrite")
    scaled = crop_columns(heat, crop_cols) * 255.0
    return row_major(np.rint(scaled, out=scaled).astype(np.uint8))


def body_slices(body: np.ndarray, plane: str) -> tuple[int, int]:
    """Return the half-open interval of slices of a plane that hold a 3-D body mask."""
    axis = SLICE_AXIS[plane]
    occupied = np.flatnonzero(body.any(axis=tuple(other for other in range(3) if other != axis)))
    return int(occupied[0]), int(occupied[-1]) + 1


def slice_distances(count: int) -> np.ndarray:
    """Return the relative place of each of a body's slices: -1 the first, 1 the last; 0 if there is one."""
    return np.linspace(-1.0, 1.0, count, dtype=np.float32) if count > 1 else np.zeros(1, np.float32)


def cut_vertebra(case: str, volumes: CaseVolumes, healthy: Collection[int], plane: str) -> VertebraSlices:
    """Keep the slices of a vertebra's body.

    Args:
        case: names the vertebra.
        volumes: its case.
        healthy: labels that count as healthy neighbours.
        plane: `sagittal` or `coronal`.

    Raises:
        InputError: the vertebra is higher than the gap.
    """
    target = split_case(case)[1]
    body = volumes.label == target
    top, bottom = row_extent(body)
    if bottom - top > GAP_ROWS:
        raise InputError(f"case '{case}': expected a body of at most {GAP_ROWS} rows (mm), found "
                         f"{bottom - top}; correct its mask or take it out of the cohort")
    first, last = body_slices(body, plane)
    others = np.isin(volumes.label, list(set(healthy) - {target}))
    masks = body.astype(np.uint8) | (others.astype(np.uint8) << 1)
    channels = [volumes.ct, masks] + ([] if volumes.heatmap is None else [volumes.heatmap])
    slices = [np.moveaxis(channel, SLICE_AXIS[plane], 0)[first:last] for channel in channels]
    measures_mm = body_measures(volumes.label, [target]).get(target)
    distance = slice_distances(last - first)
    return VertebraSlices(case, np.stack(slices, axis=1), distance, top, bottom, measures_mm)


def slice_weights(distance: np.ndarray) -> np.ndarray:
    """Return how likely each slice is drawn, up to a factor: 1 at the centre, falling linearly to 1/2."""
    return 1.0 - (1.0 - END_WEIGHT) * np.abs(distance)


class Draw(NamedTuple):
    """One batch before it is gathered; all (B,) int64."""

    vertebra: Tensor
    place: Tensor          # of the slice among the vertebra's
    context_above: Tensor  # visible rows
    context_below: Tensor
    augmentation: Augmentation | None = None

    def at(self, index: Tensor) -> "Draw":
        """Return a part of the batch."""
        *tensors, augmentation = self
        part = None if augmentation is None else augmentation.map(lambda tensor: tensor[index])
        return Draw._make([*(tensor[index] for tensor in tensors), part])


def epoch_batches(store: "SliceStore", batch_size: int, seed: int, epoch: int, kinds: Collection[str] = (),
                  plane: str = "sagittal") -> Iterator[Draw]:
    """Yield the batches of an epoch: every vertebra once, in random order, the last batch maybe smaller.

    Args:
        store: the vertebrae.
        batch_size: slices.
        seed, epoch: decide everything.
        kinds: of augmentation, see `data.augmentation`. They do not change which slices are drawn.
        plane: of the slices.
    """
    source = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(source >> np.uint64(1)))  # torch takes 63 bits
    order = torch.randperm(len(store), generator=generator)
    place = torch.multinomial(store.weights, 1, generator=generator).squeeze(1)       # (V,)
    above, below = draw_training_context(len(store), generator)
    augmentation = draw_augmentation(len(store), kinds, plane, generator) if kinds else None
    draw = Draw(torch.arange(len(store)), place, above, below, augmentation)
    for start in range(0, len(store), batch_size):
        yield draw.at(order[start:start + batch_size])


def central_draw(store: "SliceStore") -> Draw:
    """Return the fixed draw of validation: the central slice of every vertebra, the context of inference."""
    count = len(store)
    context = inference_context(count)
    return Draw(torch.arange(count), store.weights.argmax(1), context, context)
