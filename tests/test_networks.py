"""Networks: the published shapes, batches that equal their elements, attention against a plain loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from data.slice_input import SliceInput
from models.contextual_attention import ContextualAttention, GapAttention, gap_rows, touches_gap
from models.discriminator import BOX_PIXELS, Discriminators, NormalisedConv, PatchDiscriminator, crop_to_box
from models.generator import GENERATORS, build_generator
from models.layers import fill_channels, row_offset
from models.residual_generator import column_means, height_rows
from models.spectral_conv import elu_by_sigmoid_
from util.errors import InputError
from util.geometry import GAP_ROWS

PUBLISHED_STATE = Path(__file__).parent / "data" / "published_generator_state.tsv"


def painted_input(batch: int, rows: int = 96, columns: int = 32, seed: int = 0) -> SliceInput:
    """Random slices; each sample's gap lies four rows below the one before."""
    random = torch.Generator().manual_seed(seed)
    gap = torch.zeros(batch, 1, rows, columns)
    for sample in range(batch):
        top = (rows - GAP_ROWS) // 2 + 4 * sample
        gap[sample, :, top:top + GAP_ROWS] = 1
    image, heat = torch.rand(2, batch, 1, rows, columns, generator=random)
    masked_ct = torch.where(gap > 0, -1.0, 2 * image - 1)
    return SliceInput(masked_ct, gap, torch.rand(batch, generator=random), heat * (1 - gap))


def element(seen: SliceInput, sample: int) -> SliceInput:
    return SliceInput(*(field[sample:sample + 1] for field in seen))


def wake(network: torch.nn.Module) -> torch.nn.Module:
    """Give parameters that begin at zero a value, so that every path is alive; settle spectral norms."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=random))
        for _ in range(10):
            network(painted_input(1))
    return network.eval()


def test_a_discriminators_layer_has_the_norm_one() -> None:
    torch.manual_seed(0)
    layer = NormalisedConv(6, 9, stride=2)
    for _ in range(400):
        layer.norm()
    greatest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
    assert layer.norm().item() == pytest.approx(greatest.item(), rel=1e-4)
    layer.norm().backward()   # the gradient of a norm has the norm one
    assert layer.weight.grad.flatten(1).norm().item() == pytest.approx(1.0, rel=1e-4)
    before = layer.left.clone()
    image = torch.randn(2, 6, 16, 12)
    expected = torch.nn.functional.conv2d(image, layer.weight / greatest, layer.bias, 2, 1)
    torch.testing.assert_close(layer.eval()(image), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(layer.left, before)


def test_published_generator_has_the_published_state() -> None:
    expected = dict(line.split("\t") for line in PUBLISHED_STATE.read_text(encoding="utf-8").splitlines())
    generator = build_generator("published", ngf=16, attention=True)
    found = {name: "x".join(map(str, value.shape)) for name, value in generator.state_dict().items()}
    assert found == expected
    assert sum(parameter.numel() for parameter in generator.parameters()) == 986_888


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("attention", [True, False])
def test_batch_of_two_equals_two_batches_of_one(kind: str, attention: bool) -> None:
    torch.manual_seed(0)
    generator = wake(build_generator(kind, ngf=4, attention=attention))
    seen = painted_input(2)
    with torch.no_grad():
        both = generator(seen)
        alone = [generator(element(seen, sample)) for sample in range(2)]
    for name, field in both._asdict().items():
        expected = torch.cat([getattr(output, name) for output in alone])
        torch.testing.assert_close(field, expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("columns", [64, 128])
def test_output_shapes_and_ranges(kind: str, columns: int) -> None:
    output = build_generator(kind, ngf=4)(painted_input(1, rows=256, columns=columns))
    for image in (output.coarse_ct, output.coarse_neighbours, output.ct, output.body):
        assert image.shape == (1, 1, 256, columns)
    for mask in (output.coarse_neighbours, output.body):
        assert mask.detach().amin() >= 0 and mask.detach().amax() <= 1
    for height_mm in (output.coarse_height_mm, output.height_mm):
        assert height_mm.shape == (1,)
        assert 0 < height_mm.item() < GAP_ROWS


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("attention", [True, False])
def test_arguments_rebuild_the_generator(kind: str, attention: bool) -> None:
    generator = build_generator(kind, ngf=8, attention=attention)
    build_generator(**generator.arguments).load_state_dict(generator.state_dict())


@pytest.mark.parametrize("kind", GENERATORS)
def test_attention_map_reaches_the_result(kind: str) -> None:
    generator = wake(build_generator(kind, ngf=4))
    seen = painted_input(1)
    with torch.no_grad():
        without = generator(seen._replace(attention=0 * seen.attention))
        assert not torch.equal(generator(seen).ct, without.ct)


@pytest.mark.parametrize("kind", GENERATORS)
def test_every_parameter_learns(kind: str) -> None:
    generator = wake(build_generator(kind, ngf=4)).train()
    sum(field.square().sum() for field in generator(painted_input(2))).backward()
    gradients = {name: parameter.grad for name, parameter in generator.named_parameters()}
    still = [name for name, grad in gradients.items() if grad is None or not grad.any()]
    assert still == []


def test_residual_refinement_sees_the_coarse_stage() -> None:
    generator = wake(build_generator("residual", ngf=4)).train()
    generator(painted_input(1)).body.sum().backward()
    for part in (generator.coarse_images, generator.coarse_height, generator.coarse):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())


def test_column_means_are_of_the_rows_beside_the_gap() -> None:
    """Of rows 0..199: 50..79 above the gap, 120..149 below; those that show nothing do not count."""
    gap = torch.zeros(2, 1, 200, 2)
    gap[:, :, 80:120] = 1
    row = torch.arange(200.0)[:, None] / 200
    masked_ct = torch.where(gap > 0, -1.0, torch.stack([row, -row], 2)[:, 0])
    masked_ct[1, :, 140:] = -1
    seen = SliceInput(masked_ct, gap, torch.zeros(2), gap)
    expected = [(64.5 + 134.5) / 400, (30 * 64.5 + 20 * 129.5) / 50 / 200]
    found = column_means(seen)[:, 0, 0]
    torch.testing.assert_close(found, torch.tensor([[mean, -mean] for mean in expected]))
    nothing = column_means(seen._replace(masked_ct=torch.full_like(masked_ct, -1)))
    assert nothing.eq(0).all()


def test_an_untrained_residual_generator_answers_the_column_means() -> None:
    seen = painted_input(2)
    with torch.no_grad():
        output = build_generator("residual", ngf=4)(seen)
    means = column_means(seen).expand_as(output.ct)
    assert torch.equal(output.coarse_ct, means)
    assert torch.equal(output.ct, means)


def test_unknown_generator_names_the_flag() -> None:
    with pytest.raises(InputError, match=r"--netG.*residual.*'unet'"):
        build_generator("unet")


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 3e-7), (torch.bfloat16, 2e-3)])
def test_elu_by_sigmoid_is_elu(precision: torch.dtype, tolerance: float) -> None:
    edges = [0.0, -1e-4, 1e-4, -100.0, 100.0, -3e38, 3e38, -torch.inf, torch.inf, torch.nan]
    features = torch.cat([torch.linspace(-8, 8, 10_001), torch.tensor(edges)]).to(precision)
    expected = functional.elu(features.double()).to(precision)
    overwritten = features.clone()
    result = elu_by_sigmoid_(overwritten)
    assert result.dtype == precision and result.data_ptr() == overwritten.data_ptr()
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance, equal_nan=True)


def test_row_offset_counts_from_each_samples_own_gap() -> None:
    offset = row_offset(painted_input(2).gap)[:, 0, :, 0]
    assert offset[0, 47] == -0.5 and offset[0, 48] == 0.5
    assert offset[1, 51] == -0.5 and offset[1, 52] == 0.5


def test_height_rows_draw_the_height() -> None:
    gap = painted_input(1).gap
    folded = height_rows(torch.tensor([20.0]), gap)                      # (1, 4, 24, 8)
    rows = folded[0, :, :, 0].T.flatten()                                # back to 96 rows
    assert int((rows > 0).sum()) == 20
    assert (rows[38:58] > 0).all()


def plain_contextual_attention(features: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """The published attention for one sample, position by position: a patch near the gap scores zero."""
    channels, rows, columns = features.shape
    half = np.pad(features[:, ::2, ::2], ((0, 0), (1, 1), (1, 1)))
    height, width = rows // 2, columns // 2
    count, factor = height * width, gap.shape[0] // height
    patches = [half[:, r:r + 3, c:c + 3].ravel() for r in range(height) for c in range(width)]
    scores = np.array([[a @ b / max(np.linalg.norm(b), 1e-4) for b in patches] for a in patches])

    def along(scores: np.ndarray, order: list[int]) -> np.ndarray:
        fused = np.zeros_like(scores)
        for i in range(count):
            for j in range(count):
                for step in (-1, 0, 1):
                    if 0 <= i + step < count and 0 <= j + step < count:
                        fused[order[i], order[j]] += scores[order[i + step], order[j + step]]
        return fused

    scores = along(scores, list(range(count)))
    scores = along(scores, [r * width + c for c in range(width) for r in range(height)])
    padded = np.pad(gap[::factor, ::factor], 1)
    free = np.array([not padded[r:r + 3, c:c + 3].any() for r in range(height) for c in range(width)])
    result = np.zeros((channels, rows + 2, columns + 2))
    source = np.pad(features, ((0, 0), (1, 1), (1, 1)))
    for i in range(count):
        score = 10 * np.where(free, scores[i], 0)
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        row, column = 2 * (i // width), 2 * (i % width)
        for j in np.flatnonzero(free):
            r, c = 2 * (j // width), 2 * (j % width)
            result[:, row:row + 4, column:column + 4] += weight[j] * source[:, r:r + 4, c:c + 4] / 4
    return result[:, 1:-1, 1:-1]


def test_contextual_attention_equals_a_plain_loop() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 16, 8, generator=random, dtype=torch.float64) / 3
    gap = torch.zeros(2, 1, 64, 32, dtype=torch.float64)
    gap[0, :, 12:36] = 1
    gap[1, :, 29:50] = 1                                                 # begins between sampled pixels
    found = ContextualAttention()(features, gap)
    for sample in range(2):
        expected = plain_contextual_attention(features[sample].numpy(), gap[sample, 0].numpy())
        np.testing.assert_allclose(found[sample].numpy(), expected, atol=1e-10)


def test_gap_attention_equals_a_plain_loop() -> None:
    torch.manual_seed(0)
    attend = GapAttention(4, 2).double()
    features = torch.randn(2, 4, 12, 4, dtype=torch.float64)
    gap = painted_input(2).gap.double()                                  # 96 x 32: factor 8
    found = attend(features, gap)
    queries, keys = attend.query(features), attend.key(features)
    values = attend.value(features)
    pad = torch.nn.functional.pad
    for sample in range(2):
        patches = [pad(maps[sample], (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1).permute(1, 2, 0, 3, 4)
                   for maps in (queries, keys)]                          # (12, 4, 2, 3, 3)
        blocks = gap[sample, 0].reshape(12, 8, 4, 8).amax((1, 3))        # (12, 4)
        near = pad(blocks, (1, 1, 1, 1)).unfold(0, 3, 1).unfold(1, 3, 1).amax((2, 3)) > 0
        expected = features[sample].clone()
        for row, column in blocks.nonzero().tolist():
            query = patches[0][row, column].flatten()
            key = patches[1][~near].flatten(1)
            score = key @ query / query.norm() / key.norm(dim=1)
            expected[:, row, column] += values[sample][:, ~near] @ (score * attend.scale).softmax(0)
        torch.testing.assert_close(found[sample], expected)


def test_attention_is_finite_where_everything_is_gap() -> None:
    gap = torch.ones(1, 1, 64, 32)
    assert torch.isfinite(ContextualAttention()(torch.randn(1, 3, 16, 8), gap)).all()
    assert touches_gap(gap).all()


def test_gap_rows_begin_where_each_gap_begins() -> None:
    gap = torch.zeros(3, 1, 8, 2)
    gap[0, :, 2:5] = 1
    gap[1, :, 4:7] = 1
    gap[2, :, 6:8] = 1
    assert gap_rows(gap, 4).tolist() == [[2, 3, 4, 5], [4, 5, 6, 7], [4, 5, 6, 7]]


def test_discriminators_batch_equals_elements() -> None:
    torch.manual_seed(0)
    networks = Discriminators(ndf=4).eval()
    image, mask = torch.randn(2, 2, 1, 128, 96)
    box = torch.zeros(2, 1, 128, 96)
    box[0, :, 50:80, 30:60] = 1
    box[1, :, 60:84, 40:66] = 1
    together = networks(image, mask, box)
    for sample in range(2):
        one = slice(sample, sample + 1)
        for expected, found in zip(together, networks(image[one], mask[one], box[one]), strict=True):
            torch.testing.assert_close(found, expected[one], rtol=1e-4, atol=1e-5)


def test_patch_discriminator_sees_70_pixels() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(ndf=4).eval()
    image = torch.randn(1, 1, 160, 160, requires_grad=True)
    logits = network(image)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows = image.grad[0, 0].any(1).nonzero()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_crop_keeps_the_box_and_nothing_else() -> None:
    image = torch.arange(2 * 96 * 80, dtype=torch.float32).reshape(2, 1, 96, 80) + 1
    body = torch.zeros(2, 1, 96, 80)
    body[0, :, 40:70, 30:61] = 1
    body[1, :, 0:20, 70:80] = 1
    crop = crop_to_box(image, body)
    assert crop.shape == (2, 1, BOX_PIXELS, BOX_PIXELS)
    assert torch.equal(crop[0][crop[0] > 0].reshape(30, 31), image[0, 0, 40:70, 30:61])
    assert torch.equal(crop[1][crop[1] > 0].reshape(20, 10), image[1, 0, 0:20, 70:80])
    assert (crop[crop <= 0] == -1).all()
    assert (crop_to_box(image, torch.zeros_like(body)) == -1).all()


@pytest.mark.parametrize(("channels", "multiple", "filled_to"), [(1, 2, 2), (3, 8, 8), (8, 8, 8)])
def test_filled_channels_convolve_the_same_in_the_order_of_features(channels, multiple, filled_to):
    torch.manual_seed(0)
    images, weight = torch.randn(2, channels, 12, 10), torch.randn(4, channels, 3, 3)
    filled = fill_channels(images, weight, multiple)
    assert [each.shape[1] for each in filled] == [filled_to] * 2
    found, expected = (functional.conv2d(*each, padding=1) for each in (filled, (images, weight)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert channels == filled_to or found.is_contiguous(memory_format=torch.channels_last)
