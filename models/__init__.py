"""Networks, objective, training and iterative inference."""

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from models.pix2pix_model import Pix2PixModel


def create_model(options: Namespace, device: str) -> "Pix2PixModel":
    """Return the model that --model names (there is one), freshly initialised from --seed."""
    from models.pix2pix_model import Pix2PixModel

    return Pix2PixModel(options, device)
