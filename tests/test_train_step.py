"""The fast training step: equal to the plain one, without waiting for the device, resumable, compiled."""

from argparse import Namespace
from copy import deepcopy
from pathlib import Path

import pytest
import small_training
import torch
from box_spine import write_box_cohort
from test_networks import painted_input, wake
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import train_step
from benchmarks.contextual_attention import plain_contextual_attention
from benchmarks.plain_generator import plain_generator
from benchmarks.plain_step import PlainStep
from benchmarks.train_step import build_options, painted_slices, relative_differences, settle
from data.integrity import read_cohort_slices
from models import base_model, create_model
from models.contextual_attention import ContextualAttention
from models.generator import GENERATORS, build_generator
from models.pix2pix_model import Pix2PixModel
from models.spectral_conv import SpectralConv, convolve_jointly, normalised_weights
from util.errors import InputError

SMALL = ("--ngf=4", "--ndf=4")
WAITS = ("local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh")  # or copies from the host


def model_with_batch(*flags: str, batch: int = 2) -> Pix2PixModel:
    """A small model that has been given painted slices."""
    model = create_model(small_options(f"--batch_size={batch}", *flags), "cpu")
    context = torch.full((batch,), 88)
    model.set_input(painted_slices(batch), context, context)
    return model


def small_options(*flags: str) -> Namespace:
    return build_options(*SMALL, *flags)


def losses_of(model: Pix2PixModel, steps: int) -> list[dict[str, float]]:
    """Take steps; return the losses of each."""
    found = []
    for _ in range(steps):
        model.optimize_parameters()
        found.append({name: float(value) for name, value in model.losses.items()})
    return found


def test_attention_and_its_gradient_equal_the_published_loop() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 24, 16, generator=random, dtype=torch.float64).relu()
    features[:, :, :6] = 0                                               # patches of nothing at all
    gap = torch.zeros(3, 1, 96, 64, dtype=torch.float64)
    for sample in range(3):
        gap[sample, :, 20 + 9 * sample:50 + 9 * sample] = 1
    results = []
    for attend in (plain_contextual_attention, ContextualAttention()):
        features = features.detach().requires_grad_()
        result = attend(features, gap)
        result.square().sum().backward()
        results.append((result.detach(), features.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("planes", [0, 2])
def test_an_enlarging_layer_equals_doubling_and_joining(planes: int) -> None:
    torch.manual_seed(0)
    layer = SpectralConv(3 + planes, 4, enlarges=True).double().eval()
    features = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    beside = [torch.randn(2, 1, 12, 10, dtype=torch.float64) for _ in range(planes)]
    doubled = functional.interpolate(features, scale_factor=2, mode="nearest")
    expected = functional.elu(layer.conv(torch.cat([doubled, *beside], 1)))
    found = layer(normalised_weights([layer])[layer], features, *beside)
    torch.testing.assert_close(found, expected)
    wanted = [features, layer.conv.weight_orig, layer.conv.bias]
    for one, other in zip(*(torch.autograd.grad(result.square().sum(), wanted)
                            for result in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_heads_together_equal_heads_apart() -> None:
    torch.manual_seed(0)
    heads = [SpectralConv(4, 1, activation=None).eval() for _ in range(2)]
    features, plane = torch.randn(2, 3, 8, 6), torch.randn(2, 1, 8, 6)
    weights = normalised_weights(heads)
    for head, found in zip(heads, convolve_jointly(weights, heads, features, plane), strict=True):
        torch.testing.assert_close(found, head(weights[head], torch.cat([features, plane], 1)))


def test_the_published_network_equals_its_plain_pass() -> None:
    torch.manual_seed(0)
    generator = wake(build_generator("published", ngf=4))
    seen = painted_input(2)
    with torch.no_grad():
        found, expected = generator(seen), plain_generator(generator, seen)
    for name, value in expected._asdict().items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_step_equals_the_plain_step() -> None:
    model = model_with_batch()
    settle(model)
    plain = PlainStep(model)
    plain()
    model.optimize_parameters()
    differences = relative_differences(plain.losses, model.losses)
    assert differences.pop("gan") < train_step.UPDATED_TOLERANCE
    assert max(differences.values()) < train_step.TOLERANCE
    moved = zip(plain.discriminators[0].parameters(), model.discriminators.image.parameters(), strict=True)
    assert all((one - other).abs().mean() < 0.1 * plain.optimizers[1].param_groups[0]["lr"]
               for one, other in moved)


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU or copy to it: reading a value, sizes that depend on values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        by_mask = "index" in str(function) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for argument in args if isinstance(argument, list | tuple) for index in argument)
        assert not by_mask and not any(name in str(function) for name in WAITS), str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("flags", [("--netG=published",), ("--netG=residual",), ("--amp",)])
def test_the_step_waits_for_nothing(flags: tuple[str, ...]) -> None:
    model = model_with_batch(*flags)
    with NoWaiting():
        model.optimize_parameters()
    with pytest.raises(AssertionError, match="local_scalar_dense"), NoWaiting():
        model.losses["total"].item()


@pytest.mark.parametrize("generator", ["residual", "published"])
def test_bfloat16_keeps_the_losses_of_twenty_steps(generator: str) -> None:
    flags = f"--netG={generator}", "--ndf=2"
    runs = [losses_of(model_with_batch(*flags, *more, batch=1), 20) for more in ((), ("--amp",))]
    mean, mean_amp = ({name: sum(step[name] for step in run[-10:]) / 10 for name in run[0]} for run in runs)
    for name in ("total", "l1", "body_dice", "height"):
        assert mean_amp[name] == pytest.approx(mean[name], rel=0.02, abs=0.01), name


def test_norms_together_equal_torchs_one_by_one() -> None:
    torch.manual_seed(0)
    layers = [SpectralConv(3, 4, 5), SpectralConv(8, 2), SpectralConv(4, 1)]
    together = [layer.conv for layer in layers]
    apart = deepcopy(together)
    together[1].to(memory_format=torch.channels_last)

    def gradients(weights: list[torch.Tensor], convs: list[torch.nn.Conv2d]) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(sum(weight.pow(3).sum() for weight in weights),
                                   [conv.get_parameter("weight_orig") for conv in convs])

    for is_training in (True, True, False):
        for conv in (*apart, *together):
            conv.train(is_training)
        for conv in apart:
            conv(torch.zeros(1, conv.in_channels, 6, 6))  # torch's hook works out its weight
        found, expected = list(normalised_weights(layers).values()), [conv.weight for conv in apart]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(found, together), gradients(expected, apart))
        for one, other in zip(together, apart, strict=True):
            torch.testing.assert_close(dict(one.named_buffers()), dict(other.named_buffers()))


def test_spectral_norms_keep_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    layer = SpectralConv(3, 4).eval()
    expected = normalised_weights([layer])[layer]
    with torch.autocast("cpu", torch.bfloat16):
        found = normalised_weights([layer])[layer]
        assert layer(found, torch.randn(1, 3, 8, 8)).dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_a_run_without_fused_optimisers_goes_on() -> None:
    model = model_with_batch()
    for name, network in model.networks.items():
        model.optimizers[name] = [torch.optim.Adam(network.parameters(), 1e-3, (0.5, 0.999))]
    losses_of(model, 3)
    fused = model_with_batch()
    fused.load_state(deepcopy(model.state()))
    assert all(group["fused"] for [adam] in fused.optimizers.values() for group in adam.param_groups)
    for one, other in zip(losses_of(model, 2), losses_of(fused, 2), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace what is to be compiled, in one piece, but do not build it: quick."""
    compiled = torch.compile
    monkeypatch.setattr(base_model, "check_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda work, dynamic, options: compiled(
        work, dynamic=dynamic, backend="eager", fullgraph=True))


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kind", GENERATORS)
def test_a_compiled_step_learns_the_same_and_saves_the_same_names(monkeypatch: pytest.MonkeyPatch,
                                                                  kind: str) -> None:
    runs = {flags: model_with_batch(f"--netG={kind}", *flags) for flags in ((), ("--compile",))}
    plain, compiled = (losses_of(model, 2) for model in runs.values())
    assert plain == [pytest.approx(losses, rel=1e-4) for losses in compiled]
    assert [len(model.compilations) for model in runs.values()] == [0, 4]
    with_last_batch = runs[("--compile",)]
    monkeypatch.setattr(with_last_batch, "compiled", None)
    with_last_batch.set_input(painted_slices(1), *torch.full((2, 1), 88))
    with_last_batch.optimize_parameters()  # a smaller batch is not compiled for
    states = [model.state()["networks"] for model in runs.values()]
    assert {name: list(state) for name, state in states[0].items()} == {
        name: list(state) for name, state in states[1].items()}


@pytest.mark.usefixtures("traced")
def test_a_recording_compiles_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cohort = write_box_cohort(tmp_path, patients=5, labels=(19, 20))
    store = read_cohort_slices(small_training.parse(cohort)).train
    model = small_training.model_with_batch(cohort, store, "--compile")
    for _ in range(2):
        model.optimize_parameters()
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
    model._take_step(*(tensor.clone() for tensor in model.batch))  # as `Recording` holds them


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nowhere/g++"))
    with pytest.raises(InputError, match=r"--compile: expected a C\+\+ compiler.*leave out --compile"):
        create_model(small_options("--compile"), "cpu")
