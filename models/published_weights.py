"""Weights of the published generator: a state dict is read, checked and made a checkpoint for inference.

Layer names and shapes are those of `models.published_generator`. The checkpoint asks for the published
convention of the sample (`data.slice_input.CONVENTIONS`): every row of the image is visible, the distance
has no sign, the attention map is 1 in the gap, a height leaves out the body's lowest row. What stays
different from how these weights were trained and used:

- The gap takes the place of the rows that the vertebra has over all its slices, not of those it has in the
  slice, and no row of it stays visible (published, its lowest). In a slice where the body is lower, the discs
  beside the gap look thinner.
- While a neighbour is restored the gap is in the middle of the image, as in training; the published inference
  leaves it where the neighbour is, and makes it 41 rows high. The heatmap moves with every pass.
- A vertebra has one height, the median over its slices; published, each slice is closed to its own, rounded
  up and never below what it had.
- Heatmaps share one scale over the volume and cover every slice; the published ones are scaled slice by
  slice and are zero outside the central 30.
- The slice at the body's end has the distance 1; published, (n - 1) / n for a body of n slices. CT is rounded
  to whole grey levels, not cut.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from models.checkpoint import save_generator
from models.generator import build_generator
from util.errors import InputError

ARGUMENTS: dict[str, Any] = {"kind": "published", "ngf": 16, "attention": True}
COLUMNS = 256         # the published input
PARALLEL = "module."  # what torch.nn.DataParallel puts before every name
SAVE = "torch.save(generator.state_dict(), path)"


def import_published(weights: str | Path, target: str | Path, *, plane: str = "sagittal",
                     attention: str = "heatmap", overwrite: bool = False) -> None:
    """Turn a state dict of the published generator into a checkpoint for inference.

    Args:
        weights: the file that `torch.save` wrote.
        target: checkpoint to write, ends in `.safetensors`.
        plane: `sagittal` or `coronal`: whose slices the weights were trained on.
        attention: `heatmap`, or `none` for weights that were trained with a map of ones.
        overwrite: replace a checkpoint that is there.

    Raises:
        InputError: as `read_state` and `check_state`, or there is a checkpoint already.
    """
    if Path(target).exists() and not overwrite:
        raise InputError(f"{target}: expected no checkpoint yet, found one; choose another --name, or "
                         f"replace it by --overwrite")
    state = read_state(weights)
    check_state(weights, state)
    generator = build_generator(**ARGUMENTS)
    generator.load_state_dict({name: value.float() for name, value in state.items()})
    settings = {"plane": plane, "crop_cols": COLUMNS, "attention": attention, "convention": "published",
                "training": {"imported_from": Path(weights).name}}
    save_generator(target, generator, settings)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict without running anything that the file holds.

    It may lie in a dictionary (`{"epoch": ..., "state_dict": ...}`) as the only one, and its names may begin
    with `module.`.

    Raises:
        InputError: the file is missing or damaged, holds more than tensors and plain values, or not just one
            state dict.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: expected the published generator's weights, found no file; "
                         f"check --weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(_refusal(path, str(error))) from error
    except Exception as error:  # torch, pickle and zip each raise their own for a damaged file
        raise InputError(f"{path}: expected a state dict written by torch.save, found another or a damaged "
                         f"file ({type(error).__name__}); fetch it again") from error
    state = _only_state(path, content)
    prefixed = all(name.startswith(PARALLEL) for name in state)
    return {name.removeprefix(PARALLEL) if prefixed else name: value for name, value in state.items()}


def check_state(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and values with the published generator's.

    Raises:
        InputError: they differ; every tensor is named.
    """
    expected = {name: value.shape for name, value in build_generator(**ARGUMENTS).state_dict().items()}
    problems = [f"{name}: expected {_size(shape)}, found {fault}"
                for name, shape in expected.items() if (fault := _fault(state.get(name), shape))]
    problems += [f"{name}: expected no such tensor, found {_size(value.shape)}"
                 for name, value in state.items() if name not in expected]
    if problems:
        raise InputError(f"{path}: expected the {len(expected)} tensors of the published generator, found "
                         f"{len(problems)} that differ ({'; '.join(problems)}); choose the generator's own "
                         f"weights, latest_net_G.pth")


def _fault(value: Tensor | None, shape: torch.Size) -> str:
    """Return what is found instead of numbers of this shape, or nothing."""
    if value is None:
        return "none"
    if value.shape != shape:
        return _size(value.shape)
    if not value.is_floating_point():
        return f"values of type {str(value.dtype).removeprefix('torch.')}"
    return "" if value.isfinite().all() else "values that are not finite"


def _size(shape: torch.Size) -> str:
    """Return a shape as text: 16x3x5x5."""
    return "x".join(map(str, shape)) or "a single number"


def _only_state(path: str | Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict that the content is, or the only one that it holds."""
    if _is_state(content):
        return dict(content)
    entries = content if isinstance(content, Mapping) else {}
    inner = [value for value in entries.values() if _is_state(value)]
    if len(inner) == 1:
        return dict(inner[0])
    keys = ", ".join(map(str, entries))
    found = f"{len(inner)} under the keys {keys}" if entries else type(content).__name__
    raise InputError(f"{path}: expected one state dict (names to tensors), found {found}; "
                     f"save the generator's alone: {SAVE}")


def _is_state(content: Any) -> bool:
    """Tell whether something maps names to tensors."""
    return isinstance(content, Mapping) and bool(content) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _refusal(path: str | Path, reason: str) -> str:
    """Return the message for a pickle that needs more than tensors and plain values."""
    wanted = re.search(r"GLOBAL ([\w.]+)", reason)
    found = f"one that would run '{wanted[1]}'" if wanted else "another or a damaged pickle"
    return (f"{path}: expected a state dict of tensors alone, found {found}; nothing of it was run; "
            f"ask for a file made by {SAVE}")
