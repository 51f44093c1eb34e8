"""The published forward pass at a batch of one, written a second time as plain functions of a state dict.

Nothing here comes from `models`, so that agreement means something. Facts were taken from the publication's
code as it ran inference.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

PUBLISHED_STATE = Path(__file__).parent / "data" / "published_generator_state.tsv"
CONTRACTION = "conv1 conv2_downsample/2 conv3 conv4_downsample/2 conv5 conv6"
DILATED = "conv7_atrous@2 conv8_atrous@4 conv9_atrous@8 conv10_atrous@16"
POWER_ITERATIONS = 3  # few, as in training, so that the stored vectors are near the singular ones, not equal

State = dict[str, Tensor]


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the published generator."""
    lines = PUBLISHED_STATE.read_text(encoding="utf-8").splitlines()
    return {name: tuple(map(int, shape.split("x"))) for name, shape in (line.split("\t") for line in lines)}


def random_published_state(seed: int = 0) -> State:
    """Return weights under which signals neither die out nor saturate, with fitting spectral vectors."""
    random = torch.Generator().manual_seed(seed)
    state = {name: 0.3 * torch.randn(shape, generator=random) for name, shape in published_shapes().items()}
    for name in [name for name in state if name.endswith("weight_orig")]:
        matrix = torch.nn.init.orthogonal_(torch.empty(state[name].flatten(1).shape), generator=random)
        matrix = matrix * (0.5 + 2 * torch.rand(1, generator=random)) + 0.02 * state[name].flatten(1)
        u = torch.randn(len(matrix), generator=random)
        for _ in range(POWER_ITERATIONS):
            v = functional.normalize(matrix.T @ u, dim=0)
            u = functional.normalize(matrix @ v, dim=0)
        stem = name.removesuffix("orig")
        state |= {name: matrix.reshape(state[name].shape), stem + "u": u, stem + "v": v}
    state["fine_generator.pmconv6.conv.bias"] -= 0.9  # so that no single patch takes all weight
    return state


def random_published_input(gap_top: int, seed: int = 0) -> dict[str, Tensor]:
    """Return masked CT, gap and attention, (1, 1, 256, 256) each, and the distance, (1,)."""
    random = torch.Generator().manual_seed(seed)
    image, attention = torch.rand(2, 1, 1, 256, 256, generator=random)
    gap = torch.zeros(1, 1, 256, 256)
    gap[:, :, gap_top:gap_top + 40] = 1
    return {"masked_ct": torch.where(gap > 0, -1.0, 2 * image - 1), "gap": gap,
            "distance": torch.rand(1, generator=random), "attention": attention}


def published_forward(state: State, masked_ct: Tensor, gap: Tensor, distance: Tensor,
                      attention: Tensor) -> dict[str, Tensor]:
    """Run both stages on one slice; heights in mm, (1,), images (1, 1, R, C)."""
    plane = torch.ones_like(gap) * distance
    coarse = _within(state, "coarse_generator.")
    deep = _chain(coarse, f"{CONTRACTION} {DILATED}", torch.cat([masked_ct, plane, gap], 1))
    coarse_height = _height(coarse, deep)
    image = _twice(_chain(coarse, "conv11 conv12", deep))
    image = torch.cat([image, functional.interpolate(attention, scale_factor=0.5, mode="nearest")], 1)
    image = torch.cat([_twice(_chain(coarse, "conv20 conv13 conv14", image)), attention], 1)
    image = _chain(coarse, "conv19 conv15 conv16", image)
    coarse_ct = _convolve(coarse, "conv17", image).clip(-1, 1)
    neighbours = torch.sigmoid(_convolve(coarse, "conv18", image))

    fine = _within(state, "fine_generator.")
    stack = torch.cat([masked_ct, neighbours, gap, plane], 1)
    hallucinated = _chain(fine, f"{CONTRACTION} {DILATED}", stack)
    matched = _chain(fine, " ".join("pm" + layer for layer in CONTRACTION.split()[:-1]), stack)
    matched = torch.relu(_convolve(fine, "pmconv6", matched))
    matched = _chain(fine, "pmconv9 pmconv10", _attend(matched, gap))
    merged = _chain(fine, "allconv11", torch.cat([hallucinated, matched], 1))
    image = _twice(_chain(fine, "allconv12 allconv19", merged))
    image = _twice(_chain(fine, "allconv13 allconv14", image))
    image = torch.cat([_chain(fine, "allconv15 allconv16", image), coarse_ct], 1)
    return {"coarse_ct": coarse_ct, "coarse_neighbours": neighbours, "coarse_height_mm": coarse_height,
            "ct": _convolve(fine, "allconv17", image).clip(-1, 1),
            "body": torch.sigmoid(_convolve(fine, "allconv18", image)), "height_mm": _height(fine, merged)}


def _within(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _convolve(state: State, layer: str, image: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """One convolution, its weight divided by u' W v of the stored vectors."""
    weight, u, v = (state[f"{layer}.conv.weight_{part}"] for part in ("orig", "u", "v"))
    weight = weight / torch.einsum("o,oi,i->", u, weight.flatten(1), v)
    reach = dilation * (weight.shape[-1] // 2)
    image = functional.pad(image, (reach,) * 4)
    return functional.conv2d(image, weight, state[f"{layer}.conv.bias"], stride, 0, dilation)


def _chain(state: State, layers: str, image: Tensor) -> Tensor:
    """Layers in order, each followed by ELU; `/2` is a stride, `@8` a dilation."""
    for layer in layers.split():
        name, _, dilation = layer.partition("@")
        name, _, stride = name.partition("/")
        image = _convolve(state, name, image, int(stride or 1), int(dilation or 1))
        image = torch.where(image > 0, image, torch.expm1(image.clip(max=0)))
    return image


def _height(state: State, features: Tensor) -> Tensor:
    mean = features.mean((0, 2, 3))
    return 40 * torch.sigmoid(state["fc_height.weight"] @ mean + state["fc_height.bias"])


def _twice(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, 2).repeat_interleave(2, 3)


def _attend(features: Tensor, gap: Tensor) -> Tensor:
    """Contextual attention of one sample: 3x3 patches at half size, 4x4 patches pasted at full size.

    A candidate whose patch holds gap pixels scores zero: it takes its share of the softmax, and what it would
    give is then left out. The gap is sampled, every eighth pixel.
    """
    half, sampled = features[:, :, ::2, ::2], gap[:, :, ::8, ::8]
    _, channels, rows, columns = half.shape
    candidates = functional.unfold(half, 3, padding=1)[0].T                            # (N, 9 C)
    length = candidates.square().sum(1).sqrt().clip(min=1e-4)
    filters = (candidates / length[:, None]).reshape(-1, channels, 3, 3)
    scores = functional.conv2d(half, filters, padding=1)[0].flatten(1)                 # (candidate, position)
    turn = torch.arange(rows * columns).reshape(rows, columns).T.flatten()             # column by column
    back = turn.argsort()
    scores = _along_diagonals(scores)
    scores = _along_diagonals(scores[turn][:, turn])[back][:, back]
    free = (functional.unfold(sampled, 3, padding=1).sum(1) == 0).to(scores.dtype).T   # (N, 1)
    weights = torch.softmax(10 * scores * free, 0) * free
    pasted = functional.unfold(features, 4, padding=1, stride=2)[0].T.reshape(-1, channels, 4, 4)
    return functional.conv_transpose2d(weights.reshape(1, -1, rows, columns), pasted, stride=2, padding=1) / 4


def _along_diagonals(scores: Tensor) -> Tensor:
    """Each score plus those one step back and one step on, of candidate and position alike."""
    total = scores.clone()
    total[1:, 1:] += scores[:-1, :-1]
    total[:-1, :-1] += scores[1:, 1:]
    return total
