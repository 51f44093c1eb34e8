"""Networks, objective, training and iterative inference."""

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from models.pix2pix_model import Pix2PixModel


def create_model(options: Namespace, device: str) -> "Pix2PixModel":
    """Return the model that --model names (there is one), freshly initialised from --seed."""
    import torch

    from models.pix2pix_model import Pix2PixModel

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")  # TF32 where a GPU has it; CPUs are not affected
    return Pix2PixModel(options, device)
