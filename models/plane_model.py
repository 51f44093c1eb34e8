"""A trained generator as inference uses it, and one pass of slices through it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.spectral_norm import SpectralNorm

from data.slice_input import CONVENTIONS, RawSlices, SampleConvention, SliceInput, build_inference_input
from models.published_generator import PublishedGenerator
from models.spectral_conv import SpectralConv, elu_by_sigmoid_
from util.geometry import GAP_ROWS, gap_top


@dataclass(frozen=True, eq=False)
class PlaneModel:
    """A generator and the plane whose slices it was trained on."""

    generator: Callable[[SliceInput], Any]
    plane: str
    device: torch.device
    amp: bool = False
    convention: SampleConvention = CONVENTIONS["own"]
    height_doubt: float = float("inf")  # of its height head, see `models.agreed_height.HeadHeight`


class Drawn(NamedTuple):
    """What the generator drew in S slices, in the rows of the gap (G = 40); on the CPU."""

    ct: Tensor           # (S, G, W) float32 -1..1
    probability: Tensor  # (S, G, W) float32: of the body
    heights_mm: Tensor   # (S,) float32


def prepare_for_inference(generator: nn.Module) -> nn.Module:
    """Put a generator into evaluation, its images in channels-last order and its spectral norms folded.

    A folded norm is the same weight, computed once instead of in every pass. The published network then draws
    nothing but what `draw` takes of it.
    """
    on_processor = next(generator.parameters()).device.type == "cpu"
    for module in generator.modules():
        if any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values()):
            nn.utils.remove_spectral_norm(module)
        if on_processor and isinstance(module, SpectralConv) and module.activation is functional.elu_:
            module.activation = elu_by_sigmoid_
    if isinstance(generator, PublishedGenerator):
        generator.fine_generator.draws_gap_alone = True
    generator.eval().requires_grad_(False)
    return generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


def draw(model: PlaneModel, raw: RawSlices, batch_slices: int) -> Drawn:
    """Let a generator draw slices, so many at once; they lie on its device."""
    first = gap_top(raw.ct.shape[2]) + model.convention.rows_below_height   # such a body lies lower
    gap = slice(first, first + GAP_ROWS)
    results = []
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=model.amp):
        for chunk in zip(*(tensor.split(batch_slices) for tensor in raw), strict=True):
            output = model.generator(build_inference_input(RawSlices(*chunk), model.convention))
            results.append((output.ct[:, 0, gap], output.body[:, 0, gap], output.height_mm))
    ct, probability, heights = (torch.cat(parts).float().cpu() for parts in zip(*results, strict=True))
    return Drawn(ct, probability, heights.reshape(-1) + model.convention.rows_below_height)
