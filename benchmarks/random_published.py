"""A published generator of random weights to measure speed with: its cost does not depend on them."""

from pathlib import Path
from typing import Any

from benchmarks.settled_norms import settle_norms
from util.volume import STRAIGHTENED_SHAPE

SEED = 0
DRAWN_HEIGHT, DRAWN_BODY = 0.5, 3.0  # biases of a height head and of a body: 25 mm, a probability about 0.95
CONTRAST = 64.0  # by which the drawn CT is amplified, to some tens of grey levels


def published_checkpoint(scratch: Path) -> Path:
    """Write a published generator of random weights and return its file.

    It draws a body of 25 mm wherever it is asked, and CT with some contrast, so that what it drew shows in
    what is compared.
    """
    import torch

    from models.checkpoint import save_generator
    from models.generator import build_generator

    torch.manual_seed(SEED)
    path = scratch / "published_random.safetensors"
    generator: Any = build_generator("published", 16, True)
    settle_norms(generator)  # at first they are guesses, and features would explode
    with torch.no_grad():
        for stage in (generator.coarse_generator, generator.fine_generator):
            stage.fc_height.weight.zero_()
            stage.fc_height.bias.fill_(DRAWN_HEIGHT)
        generator.fine_generator.allconv17.conv.weight_u.div_(CONTRAST)  # its norm is taken by this vector
        generator.fine_generator.allconv18.conv.bias.fill_(DRAWN_BODY)
    save_generator(path, generator,
                   {"plane": "sagittal", "crop_cols": STRAIGHTENED_SHAPE[1], "attention": "heatmap"})
    return path
