"""The generator as published (HealthiVert-GAN, Zhang et al. 2024), for published weights and for comparison.

Two stages after Yu et al. 2018 (arXiv:1801.07892), all convolutions spectrally normalised, ELU but for the
ReLU before contextual attention. Layers bear the names under which published weights store them, and in
evaluation one slice gives what the published forward pass gives. In a batch each sample's own gap counts,
where the published code takes the first sample's. The default generator, which learns far faster, is in
`models/residual_generator.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.slice_input import SliceInput
from models.contextual_attention import ContextualAttention
from models.generator_output import GeneratorOutput
from models.layers import as_plane
from models.spectral_conv import SpectralConv, Weights, convolve_jointly, normalised_weights
from util.geometry import GAP_ROWS, gap_top

SHRINKS = 4            # rows of the image that are one row of the deepest features
DECODER_SEES_ROWS = 18  # the last layers, from allconv12 on, look so far beyond a row of the image
SPARE_ROWS = 6         # drawn on either side of the gap: in the published convention a body may lie lower

DILATIONS = (2, 4, 8, 16)
ENCODER = ("conv1 conv2_downsample conv3 conv4_downsample conv5 conv6 "
           "conv7_atrous conv8_atrous conv9_atrous conv10_atrous")
ATTENDING_ENCODER = "pmconv1 pmconv2_downsample pmconv3 pmconv4_downsample pmconv5 pmconv6"


def add_dilated(module: nn.Module, channels: int) -> None:
    """Give a stage its four dilated layers, conv7_atrous to conv10_atrous."""
    for number, dilation in enumerate(DILATIONS, start=7):
        module.add_module(f"conv{number}_atrous", SpectralConv(channels, channels, dilation=dilation))


def apply_layers(module: nn.Module, weights: Weights, names: str, features: Tensor,
                 *planes: Tensor) -> Tensor:
    """Pass features through named layers in order; planes beside them go into the first."""
    for name in names.split():
        layer = module.get_submodule(name)
        assert isinstance(layer, SpectralConv)
        features, planes = layer(weights[layer], features, *planes), ()
    return features


class PublishedCoarse(nn.Module):
    """First stage: a first CT, the mask of the healthy neighbours, and a height."""

    def __init__(self, ngf: int, attention: bool) -> None:
        super().__init__()
        extra = int(attention)
        self.conv1 = SpectralConv(3, ngf, 5)
        self.conv2_downsample = SpectralConv(ngf, 2 * ngf, stride=2)
        self.conv3 = SpectralConv(2 * ngf, 2 * ngf)
        self.conv4_downsample = SpectralConv(2 * ngf, 4 * ngf, stride=2)
        self.conv5 = SpectralConv(4 * ngf, 4 * ngf)
        self.conv6 = SpectralConv(4 * ngf, 4 * ngf)
        add_dilated(self, 4 * ngf)
        self.conv11 = SpectralConv(4 * ngf, 4 * ngf)
        self.conv12 = SpectralConv(4 * ngf, 4 * ngf)
        self.conv20 = SpectralConv(4 * ngf + extra, 4 * ngf, enlarges=True)
        self.conv13 = SpectralConv(4 * ngf, 2 * ngf)
        self.conv14 = SpectralConv(2 * ngf, 2 * ngf)
        self.conv19 = SpectralConv(2 * ngf + extra, 2 * ngf, enlarges=True)
        self.conv15 = SpectralConv(2 * ngf, ngf)
        self.conv16 = SpectralConv(ngf, ngf // 2)
        self.conv17 = SpectralConv(ngf // 2, 1, activation=None)
        self.conv18 = SpectralConv(ngf // 2, 1, activation=None)
        self.fc_height = nn.Linear(4 * ngf, 1)

    def forward(self, weights: Weights, masked_ct: Tensor, gap: Tensor, distance: Tensor,
                attention: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return CT -1..1 and neighbours' probability, (B, 1, R, C) each, and height in mm, (B,).

        Args:
            masked_ct, gap, distance: (B, 1, R, C).
            attention: the attention map alone, or nothing where the network has none.
        """
        features = torch.cat([masked_ct, distance, gap], 1)
        features = apply_layers(self, weights, ENCODER, features)                  # (B, 4c, R/4, C/4)
        height_mm = height_from(self.fc_height, features)
        features = apply_layers(self, weights, "conv11 conv12", features)
        half = [functional.interpolate(plane, scale_factor=0.5) for plane in attention]
        features = apply_layers(self, weights, "conv20 conv13 conv14", features, *half)    # (B, 2c, R/2, C/2)
        features = apply_layers(self, weights, "conv19 conv15 conv16", features, *attention)
        ct, neighbours = convolve_jointly(weights, [self.conv17, self.conv18], features)   # (B, 1, R, C) each
        return ct.clamp(-1, 1), neighbours.sigmoid(), height_mm


def rows_near_gap(rows: int) -> tuple[int, int]:
    """Return the half-open interval of rows, multiples of 4, that the decoder needs to draw a central gap."""
    first, margin = gap_top(rows), DECODER_SEES_ROWS + SPARE_ROWS
    begin, end = max(0, first - margin), min(rows, first + GAP_ROWS + margin)
    return begin // SHRINKS * SHRINKS, -(-end // SHRINKS) * SHRINKS


class PublishedRefinement(nn.Module):
    """Second stage: the CT, the restored body, and the height; one of two encoders attends to the context.

    Attributes:
        draws_gap_alone: decode only the rows near a central gap. In it and six rows around it CT and body are
            the same as otherwise; beyond they are of no use.
    """

    def __init__(self, ngf: int) -> None:
        super().__init__()
        self.draws_gap_alone = False
        for prefix in ("", "pm"):
            last = 2 * ngf if prefix == "" else 4 * ngf
            activation = functional.elu_ if prefix == "" else functional.relu_  # what is matched is >= 0
            self.add_module(f"{prefix}conv1", SpectralConv(4, ngf, 5))
            self.add_module(f"{prefix}conv2_downsample", SpectralConv(ngf, ngf, stride=2))
            self.add_module(f"{prefix}conv3", SpectralConv(ngf, 2 * ngf))
            self.add_module(f"{prefix}conv4_downsample", SpectralConv(2 * ngf, last, stride=2))
            self.add_module(f"{prefix}conv5", SpectralConv(last, 4 * ngf))
            self.add_module(f"{prefix}conv6", SpectralConv(4 * ngf, 4 * ngf, activation=activation))
        add_dilated(self, 4 * ngf)
        self.contextual_attention = ContextualAttention()
        self.pmconv9 = SpectralConv(4 * ngf, 4 * ngf)
        self.pmconv10 = SpectralConv(4 * ngf, 4 * ngf)
        self.allconv11 = SpectralConv(8 * ngf, 4 * ngf)
        self.allconv12 = SpectralConv(4 * ngf, 4 * ngf)
        self.allconv19 = SpectralConv(4 * ngf, 4 * ngf)
        self.allconv13 = SpectralConv(4 * ngf, 2 * ngf, enlarges=True)
        self.allconv14 = SpectralConv(2 * ngf, 2 * ngf)
        self.allconv15 = SpectralConv(2 * ngf, ngf, enlarges=True)
        self.allconv16 = SpectralConv(ngf, ngf // 2)
        self.allconv17 = SpectralConv(ngf // 2 + 1, 1, activation=None)
        self.allconv18 = SpectralConv(ngf // 2 + 1, 1, activation=None)
        self.fc_height = nn.Linear(4 * ngf, 1)

    def forward(self, weights: Weights, masked_ct: Tensor, gap: Tensor, distance: Tensor, neighbours: Tensor,
                coarse_ct: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return CT -1..1 and the body's probability, (B, 1, R, C) each, and height in mm, (B,)."""
        seen = torch.cat([masked_ct, neighbours, gap, distance], 1)                # (B, 4, R, C)
        dilated = apply_layers(self, weights, ENCODER, seen)
        copied = apply_layers(self, weights, ATTENDING_ENCODER, seen)
        copied = apply_layers(self, weights, "pmconv9 pmconv10", self.contextual_attention(copied, gap))
        features = torch.cat([dilated, copied], 1)                                 # (B, 8c, R/4, C/4)
        features = apply_layers(self, weights, "allconv11", features)
        height_mm = height_from(self.fc_height, features)
        if not self.draws_gap_alone:
            return *self._decode(weights, features, coarse_ct), height_mm
        rows = coarse_ct.shape[2]
        begin, end = rows_near_gap(rows)
        features = features[:, :, begin // SHRINKS:end // SHRINKS]
        ct, body = self._decode(weights, features, coarse_ct[:, :, begin:end])
        around = (0, 0, begin, rows - end)
        return functional.pad(ct, around, value=-1.0), functional.pad(body, around), height_mm

    def _decode(self, weights: Weights, features: Tensor, coarse_ct: Tensor) -> tuple[Tensor, Tensor]:
        """Return CT and the body's probability, (B, 1, R, C) each, of features (B, 4c, R/4, C/4)."""
        features = apply_layers(self, weights, "allconv12 allconv19 allconv13 allconv14", features)
        features = apply_layers(self, weights, "allconv15 allconv16", features)             # (B, c/2, R, C)
        ct, body = convolve_jointly(weights, [self.allconv17, self.allconv18], features, coarse_ct)
        return ct.clamp(-1, 1), body.sigmoid()


def height_from(linear: nn.Linear, features: Tensor) -> Tensor:
    """Predict a height in (0, 40) mm from the mean of the features: (B, C, R, W) -> (B,)."""
    return GAP_ROWS * linear(features.mean((2, 3))).sigmoid().squeeze(1)


class PublishedGenerator(nn.Module):
    """Both published stages. 986,888 trainable parameters at ngf 16 with the attention map."""

    def __init__(self, ngf: int = 16, attention: bool = True) -> None:
        super().__init__()
        self.arguments = {"kind": "published", "ngf": ngf, "attention": attention}
        self.coarse_generator = PublishedCoarse(ngf, attention)
        self.fine_generator = PublishedRefinement(ngf)

    def forward(self, seen: SliceInput) -> GeneratorOutput:
        """Restore the vertebrae of a batch of slices in the opened frame."""
        weights = normalised_weights([each for each in self.modules() if isinstance(each, SpectralConv)])
        distance = as_plane(seen.distance, seen.masked_ct)
        attention = [seen.attention] if self.arguments["attention"] else []
        coarse_ct, neighbours, coarse_height_mm = self.coarse_generator(
            weights, seen.masked_ct, seen.gap, distance, attention)
        ct, body, height_mm = self.fine_generator(
            weights, seen.masked_ct, seen.gap, distance, neighbours, coarse_ct)
        return GeneratorOutput(coarse_ct, neighbours, coarse_height_mm, ct, body, height_mm)
