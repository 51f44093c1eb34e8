"""Files of a run: generators that explain themselves, and the state from which training goes on.

A generator's safetensors file carries in its metadata all that rebuilds and explains it, so inference needs
the file alone. `latest_state.pt` holds everything else that training must remember.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.slice_input import CONVENTIONS
from models.generator import build_generator
from util.errors import InputError
from util.paths import atomic_path

KIND = "healthivert_generator"
SETTINGS = ("plane", "crop_cols", "attention")  # what a user of the generator must know
OWN_CONVENTION = "own"  # of the sample, unless a checkpoint says otherwise; see data.slice_input.CONVENTIONS
TRAIN = "python train.py"
EARLIER = {"residual": {"column_means": False}}  # arguments that files of earlier versions do not name


def save_generator(path: str | Path, generator: nn.Module, settings: dict[str, Any]) -> None:
    """Write a generator's weights with its description, atomically.

    Args:
        path: ends in `.safetensors`.
        generator: its `arguments` rebuild it.
        settings: `plane`, `crop_cols`, `attention` (`heatmap` or `none`), and where need be `convention` (of
            the sample, if it is not this software's own), `training` (steps and metrics) and `height_prior`
            (as `models.height_prior.HeightPrior.as_json` gives it).
    """
    from safetensors.torch import save

    kept = {name: settings[name] for name in SETTINGS}
    kept["convention"] = settings.get("convention", OWN_CONVENTION)
    description = {"arguments": generator.arguments, "settings": kept,
                   "training": settings.get("training", {}), "height_prior": settings.get("height_prior")}
    weights = {name: value.detach().to("cpu", copy=True).contiguous()
               for name, value in generator.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(weights, {KIND: json.dumps(description)}))  # one key: same bytes


def read_settings(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments that rebuild a generator, and its settings, without reading the weights.

    Raises:
        InputError: the file is missing, is no safetensors file, or holds another network.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise InputError(f"{path}: expected a generator's checkpoint, found no file; train one with: "
                         f"{TRAIN}, or name another by --checkpoint or --name")
    try:
        with safe_open(path, framework="np") as archive:
            metadata = archive.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: expected a safetensors file, found another or a damaged one ({error}); "
                         f"choose a generator of {TRAIN}") from error
    if KIND not in metadata:
        raise InputError(f"{path}: expected a generator of {TRAIN}, found another network's weights; "
                         f"choose best_generator.safetensors of a run")
    try:
        description = json.loads(metadata[KIND])
        settings = {name: description["settings"][name] for name in SETTINGS}
        settings["convention"] = description["settings"].get("convention", OWN_CONVENTION)
        if settings["convention"] not in CONVENTIONS:
            raise ValueError(f"convention '{settings['convention']}'")
        arguments = EARLIER.get(description["arguments"]["kind"], {}) | description["arguments"]
        return arguments, settings | {"training": description["training"],
                                      "height_prior": description.get("height_prior")}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected the description of a generator, found a damaged one; "
                         f"choose another generator of {TRAIN}") from error


def load_generator(path: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Return a generator in evaluation mode, without gradients, and its settings.

    Raises:
        InputError: as `read_settings`, or the weights do not fit the description.
    """
    from safetensors.torch import load_file

    arguments, settings = read_settings(path)
    try:
        generator = build_generator(**arguments)
        generator.load_state_dict(load_file(path))
    except (TypeError, RuntimeError) as error:  # arguments or weights by other names
        raise InputError(f"{path}: expected weights of a generator {arguments}, found others; "
                         f"train again with this version of the software") from error
    return generator.to(device).eval().requires_grad_(False), settings


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write the state of training atomically."""
    content = io.BytesIO()
    torch.save(state, content)  # where it writes to a disk that is full, it tells of 'unexpected pos'
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_state(path: str | Path) -> dict[str, Any]:
    """Read the state of training to the CPU.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise InputError(f"--continue_train: expected {path}, found none; check --name and "
                         f"--checkpoints_dir, or start without --continue_train")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zip each raise their own for a damaged file
        raise InputError(f"--continue_train: expected the state of a run in {path}, found a damaged file; "
                         f"start without --continue_train") from error
