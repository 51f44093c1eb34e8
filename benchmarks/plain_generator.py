"""The published network's forward pass written plainly, with the layers of `models.published_generator`.

Features are doubled before they are convolved, planes are joined to them, every head is convolved by itself,
and contextual attention goes from sample to sample.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.contextual_attention import plain_contextual_attention
from models.generator_output import GeneratorOutput
from models.published_generator import ATTENDING_ENCODER, ENCODER, height_from

if TYPE_CHECKING:
    from data.slice_input import SliceInput


def plain_generator(generator: Any, seen: "SliceInput") -> GeneratorOutput:
    """Restore a batch of slices with a `PublishedGenerator`'s layers, attention map included."""
    distance = seen.distance[:, None, None, None].expand_as(seen.gap)
    coarse_ct, neighbours, coarse_height_mm = coarse_stage(generator.coarse_generator, seen, distance)
    ct, body, height_mm = refinement(generator.fine_generator, seen, distance, neighbours, coarse_ct)
    return GeneratorOutput(coarse_ct, neighbours, coarse_height_mm, ct, body, height_mm)


def coarse_stage(stage: Any, seen: "SliceInput", distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return CT, neighbours' probability and height, as `PublishedCoarse` does."""
    features = chain(stage, ENCODER, torch.cat([seen.masked_ct, distance, seen.gap], 1))
    height_mm = height_from(stage.fc_height, features)
    half = functional.interpolate(seen.attention, scale_factor=0.5)
    features = torch.cat([doubled(chain(stage, "conv11 conv12", features)), half], 1)
    features = torch.cat([doubled(chain(stage, "conv20 conv13 conv14", features)), seen.attention], 1)
    features = chain(stage, "conv19 conv15 conv16", features)
    return stage.conv17.conv(features).clamp(-1, 1), stage.conv18.conv(features).sigmoid(), height_mm


def refinement(stage: Any, seen: "SliceInput", distance: Tensor, neighbours: Tensor,
               coarse_ct: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return CT, body's probability and height, as `PublishedRefinement` does."""
    given = torch.cat([seen.masked_ct, neighbours, seen.gap, distance], 1)
    dilated = chain(stage, ENCODER, given)
    *before, last = ATTENDING_ENCODER.split()
    matched = functional.relu(stage.get_submodule(last).conv(chain(stage, " ".join(before), given)))
    matched = chain(stage, "pmconv9 pmconv10", plain_contextual_attention(matched, seen.gap))
    features = chain(stage, "allconv11", torch.cat([dilated, matched], 1))
    height_mm = height_from(stage.fc_height, features)
    features = doubled(chain(stage, "allconv12 allconv19", features))
    features = doubled(chain(stage, "allconv13 allconv14", features))
    features = torch.cat([chain(stage, "allconv15 allconv16", features), coarse_ct], 1)
    return stage.allconv17.conv(features).clamp(-1, 1), stage.allconv18.conv(features).sigmoid(), height_mm


def chain(stage: Any, names: str, features: Tensor) -> Tensor:
    """Pass features through named layers in order, each followed by ELU."""
    for name in names.split():
        features = functional.elu(stage.get_submodule(name).conv(features))
    return features


def doubled(features: Tensor) -> Tensor:
    """Double rows and columns."""
    return functional.interpolate(features, scale_factor=2, mode="nearest")
