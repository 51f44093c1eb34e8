"""Networks, objective, training and iterative inference."""

from argparse import Namespace
from typing import TYPE_CHECKING

from util.distributed import ALONE, World

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from models.pix2pix_model import Pix2PixModel


def create_model(options: Namespace, device: str, world: World = ALONE) -> "Pix2PixModel":
    """Return the model that --model names (there is one), freshly initialised from --seed.

    Args:
        options: flags of training.
        device: where it computes.
        world: the processes that train it.
    """
    import torch

    from models.pix2pix_model import Pix2PixModel

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")  # TF32 where a GPU has it; CPUs are not affected
    torch.backends.cudnn.benchmark = True  # shapes stay the same, so the quickest kernels are worth a search
    model = Pix2PixModel(options, device)
    model.world = world
    return model
