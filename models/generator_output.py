"""What every generator returns."""

from typing import NamedTuple

from torch import Tensor


class GeneratorOutput(NamedTuple):
    """Both stages' results in the opened frame; heights are differentiable, in (0, 40) mm."""

    coarse_ct: Tensor          # (B, 1, R, C) about -1..1
    coarse_neighbours: Tensor  # (B, 1, R, C) probability of a healthy neighbour's body
    coarse_height_mm: Tensor   # (B,)
    ct: Tensor                 # (B, 1, R, C) about -1..1; clamped in evaluation
    body: Tensor               # (B, 1, R, C) probability of the restored body
    height_mm: Tensor          # (B,)
