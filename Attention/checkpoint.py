"""The classifier's checkpoint: a safetensors file that carries all that rebuilds and explains the network.

Reading the description needs no torch, so a stage can check the file before it starts its processes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.errors import InputError

if TYPE_CHECKING:
    import torch

    from Attention.classifier import FractureClassifier

KIND = "fracture_classifier"
OWN_CHECKPOINT = Path("checkpoints/classifier/best.safetensors")
REMEDY = "make one with: python Attention/train_classifier.py"


def read_description(path: Path) -> dict[str, Any]:
    """`arguments` of the network, `settings` (plane, rows, columns, healthy_max_grade) and `training`.

    Raises:
        InputError: the file is missing, is no safetensors file or holds another network.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"--checkpoint {path}: expected a fracture classifier, found no file; {REMEDY}")
    try:
        with safe_open(path, framework="np") as archive:
            metadata = archive.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"--checkpoint {path}: expected safetensors, found {error}; {REMEDY}") from error
    if metadata.get("kind") != KIND:
        raise InputError(
            f"--checkpoint {path}: expected a fracture classifier, found another network's weights; {REMEDY}"
        )
    try:
        return {name: json.loads(metadata[name]) for name in ("arguments", "settings", "training")}
    except (KeyError, ValueError) as error:
        raise InputError(
            f"--checkpoint {path}: expected the description of a fracture classifier, found a damaged one; "
            f"{REMEDY}"
        ) from error


def save_classifier(
    path: Path, classifier: FractureClassifier, settings: dict[str, Any], training: dict[str, Any]
) -> None:
    """Writes the weights with their description, atomically.

    Args:
        path: ends in `.safetensors`.
        classifier: the network.
        settings: what a user of the network must know: plane, rows, columns, healthy_max_grade.
        training: steps and metrics, for the reader.
    """
    from safetensors.torch import save

    from util.paths import atomic_path

    description = {"arguments": classifier.arguments, "settings": settings, "training": training}
    metadata = {"kind": KIND} | {name: json.dumps(value) for name, value in description.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))  # save_file would keep others from reading it


def load_classifier(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[FractureClassifier, dict[str, Any]]:
    """The network in evaluation mode, its weights without gradients, and its settings.

    Raises:
        InputError: as `read_description`, or the weights do not fit the description.
    """
    from safetensors.torch import load_file

    from Attention.classifier import FractureClassifier

    description = read_description(path)
    try:
        classifier = FractureClassifier(**description["arguments"])
        classifier.load_state_dict(load_file(path))
    except (TypeError, RuntimeError) as error:  # of another version: arguments or weights by other names
        raise InputError(
            f"--checkpoint {path}: expected weights of a fracture classifier {description['arguments']}, "
            f"found others; {REMEDY}"
        ) from error
    return classifier.to(device).eval().requires_grad_(False), description["settings"]
