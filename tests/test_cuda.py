"""What a GPU computes is what the processor computes. These tests need a CUDA GPU."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from box_scan import box_scan
from box_spine import BoxCohort, write_box_cohort
from slice_boxes import boxes, joined, noisy
from test_networks import painted_input, wake
from torch.nn import functional

import eval_3d_sagittal_twostage
import train
from benchmarks.train_step import build_options, painted_slices, relative_differences
from data.aligned_dataset import epoch_batches
from data.augmentation import KINDS, augment, draw_augmentation
from data.integrity import read_cohort_slices
from data.slice_cache import SliceStore
from data.slice_input import RawSlices, SliceInput
from models import create_model
from models.generator import GENERATORS, build_generator
from models.iterative_inference import synthesize
from models.layers import by_eights
from models.pix2pix_model import Pix2PixModel
from models.plane_model import PlaneModel, prepare_for_inference
from models.recorded_step import WARM_STEPS
from models.shared_passes import run_alone
from models.spectral_conv import SpectralConv, normalised_weights
from options.train_options import TrainOptions

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SMALL = ["--ngf=8", "--ndf=4", "--crop_cols=64", "--batch_size=2", "--val_freq=4", "--log_freq=1"]


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Full precision: TF32 keeps ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """Three patients to learn from, one to watch, one held out; two targets each."""
    return write_box_cohort(tmp_path_factory.mktemp("boxes"), patients=5, labels=(19, 20))


def model_on(device: str, *flags: str, batch: int = 3) -> Pix2PixModel:
    """A small model that has been given painted slices."""
    model = create_model(build_options("--ngf=4", "--ndf=4", *flags), device)
    torch.set_float32_matmul_precision("highest")
    context = torch.full((batch,), 88)
    model.set_input(painted_slices(batch), context, context)
    return model


def losses_of(model: Pix2PixModel, steps: int) -> list[dict[str, float]]:
    """Take steps; return the losses of each, read at the end."""
    found = []
    for _ in range(steps):
        model.optimize_parameters()
        found.append(model.losses)
    return [{name: float(value) for name, value in losses.items()} for losses in found]


@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_draw_the_same(kind: str) -> None:
    torch.manual_seed(0)
    network, seen = wake(build_generator(kind, 8, True)), painted_input(3, rows=256, columns=128)
    with torch.inference_mode():
        expected = network(seen)
        found = network.cuda()(SliceInput(*(field.cuda() for field in seen)))
    for name, one, other in zip(expected._fields, expected, found, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("channels", [1, 3, 8, 9])
def test_channels_by_eights_convolve_the_same(channels: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, channels, 12, 10, device="cuda")
    weight = torch.randn(4, channels, 3, 3, device="cuda")
    filled = by_eights(images, weight)
    assert [each.shape[1] for each in filled] == [-(-channels // 8) * 8] * 2
    found, expected = (functional.conv2d(*each, padding=1) for each in (filled, (images, weight)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_spectral_norms_keep_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    layer = SpectralConv(3, 4).cuda().eval()
    expected = normalised_weights([layer])[layer]
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(normalised_weights([layer])[layer], expected)


@pytest.mark.parametrize("flags", [("--netG=published",), ("--netG=residual",)])
def test_steps_have_the_same_losses(flags: tuple[str, ...]) -> None:
    on_cpu, on_gpu = (model_on(device, *flags) for device in ("cpu", "cuda"))
    steps = WARM_STEPS + 3
    for expected, found in zip(losses_of(on_cpu, steps), losses_of(on_gpu, steps), strict=True):
        assert found == pytest.approx(expected, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("flags", [(), ("--netG=residual",), ("--amp",)])
def test_a_recorded_step_is_the_step(flags: tuple[str, ...]) -> None:
    eager, recorded = model_on("cuda", *flags, "--eager"), model_on("cuda", *flags)
    found = []
    for number in range(2 * WARM_STEPS + 6):  # two shapes by turns, the rate falling
        batch, context = painted_slices(3 - number % 2), torch.full((3 - number % 2,), 88)
        for model in (eager, recorded):
            model.set_learning_rate(1e-4 / (1 + number))
            model.set_input(batch, context, context)
            model.optimize_parameters()
        found.append((eager.losses, recorded.losses))
    assert eager.recorded is None and recorded.recorded is not None and len(recorded.recorded.recordings) == 2
    differences = [max(relative_differences(*pair).values()) for pair in found]
    assert max(differences) < (3e-2 if "--amp" in flags else 1e-2), differences


def test_a_recorded_step_waits_for_nothing(cohort: BoxCohort) -> None:
    options = TrainOptions().parse([*cohort.flags, *SMALL, "--cache=device", "--augment=all"])
    store = read_cohort_slices(options, "cuda").train
    model = create_model(options, "cuda")
    torch.cuda.set_sync_debug_mode("default")
    try:
        for epoch in range(2 * WARM_STEPS):
            torch.cuda.set_sync_debug_mode("error" if epoch > WARM_STEPS else "default")
            for draw in epoch_batches(store, 2, 0, epoch, KINDS):
                model.set_learning_rate(1e-4)
                model.set_input(store.gather(draw), draw.context_above, draw.context_below, draw.augmentation)
                model.optimize_parameters()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(float(model.losses["total"]))


def test_slices_and_augmentation_are_the_same_everywhere(cohort: BoxCohort) -> None:
    options = TrainOptions().parse([*cohort.flags, *SMALL])
    stores: list[SliceStore] = []
    for device, place in (("cpu", "memory"), ("cuda", "memory"), ("cuda", "device")):
        options.cache = place
        stores.append(read_cohort_slices(options, device).train)
    for draw in epoch_batches(stores[0], 4, 0, 0):
        first, *others = (store.gather(draw) for store in stores)
        for other in others:
            assert all(torch.equal(one, two.cpu()) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_is_the_same_but_for_rounding(kind: str) -> None:
    raw = joined(*(noisy(boxes((6, 22 + i), (7, 24), target=20 + 3 * i), i) for i in range(4)))
    drawn = draw_augmentation(4, (kind,), "sagittal", torch.Generator().manual_seed(0))
    expected, found = augment(raw, drawn), augment(RawSlices(*(field.cuda() for field in raw)), drawn)
    for name, one, other in zip(RawSlices._fields, expected, found, strict=True):
        difference = (one.float() - other.cpu().float()).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3, name


def test_a_vertebra_is_restored_alike() -> None:
    torch.manual_seed(0)
    network = prepare_for_inference(wake(build_generator("residual", 8, True)))
    results = []
    for device in ("cpu", "cuda"):
        model = PlaneModel(deepcopy(network).to(device), "sagittal", torch.device(device))
        results.append(run_alone(synthesize(box_scan(), 20, [model]), 64))
    one, other = results
    assert other.passes[-1].height_mm == pytest.approx(one.passes[-1].height_mm, rel=1e-3)
    assert (one.scan.label != other.scan.label).mean() < 1e-3
    assert np.abs(one.scan.ct.astype(int) - other.scan.ct).mean() < 0.1


@pytest.mark.parametrize("flags", [[], ["--compile"], ["--amp", "--cache=memory", "--netG=published"]])
def test_a_run_goes_on_and_its_generator_restores(cohort: BoxCohort, tmp_path: Path,
                                                  flags: list[str]) -> None:
    flags = [*cohort.flags, *SMALL, f"--checkpoints_dir={tmp_path}", "--name=gpu", "--device=cuda",
             "--max_steps=9", *flags]
    assert train.main([*flags, "--stop_after=6"]) == 0
    assert train.main([*flags, "--continue_train"]) == 0
    shared = [flag for flag in cohort.flags if flag.startswith(("--cohort", "--dataroot", "--heatmaps"))]
    assert eval_3d_sagittal_twostage.main([
        *shared, f"--checkpoint={tmp_path}/gpu/best_generator.safetensors", f"--output={tmp_path}/out",
        "--device=cuda", "--amp"]) == 0
    assert list((tmp_path / "out" / "CT_fake").iterdir())


def test_a_gpu_run_goes_on_on_a_processor(cohort: BoxCohort, tmp_path: Path) -> None:
    flags = [*cohort.flags, *SMALL, f"--checkpoints_dir={tmp_path}", "--name=moved", "--max_steps=9"]
    assert train.main([*flags, "--device=cuda", "--stop_after=6"]) == 0
    assert train.main([*flags, "--device=cpu", "--continue_train"]) == 0
