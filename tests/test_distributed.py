"""Training in two processes: what one process does, told and kept once, and never hanging."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from box_spine import BoxCohort
from torch import nn
from two_processes import PATIENCE_SECONDS, ended, start, what_was_told

import train
from models.checkpoint import load_state
from models.schedule import StopRequest
from util.cli import run_script
from util.distributed import World, joined_world
from util.errors import InputError
from util.run_log import read_lines

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--ngf=8", "--ndf=4", "--crop_cols=64", "--batch_size=2", "--gpu_ids=-1", "--log_freq=1",
         "--name=run", "--threads=1"]  # of three patients, so that an epoch ends with one for two processes
MISTAKE = "--flag: expected one thing, found another; mend it"


def flags(boxes: BoxCohort, folder: Path, *more: str) -> list[str]:
    """Return the flags of a small run."""
    return [*boxes.flags, *SMALL, f"--checkpoints_dir={folder}", *more]


def trained(argv: list[str]) -> int:
    """Train as the script does; return its status."""
    return run_script(lambda _=None: train.main(argv))


def wait_for_save(is_there: Callable[[], bool], folder: Path, beyond: int) -> None:
    """Wait until a run that is there has saved a step beyond another."""
    path = folder / "latest_state.pt"
    while not (path.exists() and load_state(path)["step"] > beyond):
        assert is_there()
        time.sleep(0.1)


def test_two_processes_learn_what_one_does(boxes: BoxCohort, tmp_path: Path) -> None:
    whole = ["--max_steps=5", "--val_freq=3", "--augment=all"]
    assert train.main(flags(boxes, tmp_path / "one", *whole)) == 0
    assert train.main(flags(boxes, tmp_path / "two", *whole, "--stop_after=1")) == 0
    goes_on = flags(boxes, tmp_path / "two", *whole, "--stop_after=3", "--continue_train")
    assert ended(start(trained, goes_on, told=tmp_path / "told")) == [0, 0]
    told = what_was_told(tmp_path / "told")
    assert "2 processes, each on cpu" in told
    for once in ("ngf: 8", "vertebrae to learn from", "step 3: psnr", "step 4 of 5, 1 left"):
        assert told.count(once) == 1, once
    assert train.main(flags(boxes, tmp_path / "two", *whole, "--continue_train")) == 0
    one, two = (read_lines(tmp_path / name / "run" / "log.jsonl") for name in ("one", "two"))
    assert [(line["step"], line["kind"]) for line in one] == [(line["step"], line["kind"]) for line in two]
    for line, other in zip(one, two, strict=True):
        for name in line.keys() - {"kind", "samples_per_second"}:
            assert other[name] == pytest.approx(line[name], rel=1e-4, abs=1e-6), (line["step"], name)
    states = [load_state(tmp_path / name / "run" / "latest_state.pt") for name in ("one", "two")]
    for network, weights in states[0]["model"]["networks"].items():
        for name, value in weights.items():
            if name.endswith("height.bodies.bias"):  # a softmax sees no shift: its gradient is rounding alone
                continue
            other = states[1]["model"]["networks"][network][name]
            torch.testing.assert_close(other, value, rtol=0, atol=5e-5, msg=name)


def run_id(launcher: subprocess.Popen, rank: int) -> int:
    """Return the process id of one of a launcher's processes."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended, or is another user's
            continue
        if parent == launcher.pid and b"RANK=%d" % rank in variables:
            return int(path.parent.name)
    raise AssertionError(f"process {rank} is not there")


def test_under_torchrun_a_dead_process_ends_the_run(boxes: BoxCohort, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py",
              *flags(boxes, tmp_path, "--max_steps=2000", "--val_freq=2")]
    launcher = subprocess.Popen(launch, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    wait_for_save(lambda: launcher.poll() is None, tmp_path / "run", beyond=0)
    os.kill(run_id(launcher, 1), signal.SIGKILL)
    told = launcher.communicate(timeout=PATIENCE_SECONDS)[0]
    assert launcher.returncode != 0
    assert told.count("process 0 of 2: expected the others to answer, found that one ended") == 1
    assert "goes on from its last save with --continue_train" in told
    assert load_state(tmp_path / "run" / "latest_state.pt")["step"] >= 2


def test_a_signal_to_one_process_saves_and_ends_both(boxes: BoxCohort, tmp_path: Path) -> None:
    long = flags(boxes, tmp_path, "--max_steps=2000", "--val_freq=2")
    processes = start(trained, long, told=tmp_path / "told")
    wait_for_save(processes[0].is_alive, tmp_path / "run", beyond=0)
    os.kill(processes[1].pid, signal.SIGTERM)
    assert ended(processes) == [130, 130]
    reached = load_state(tmp_path / "run" / "latest_state.pt")["step"]
    assert f"step {reached} of 2000, {2000 - reached} left" in what_was_told(tmp_path / "told")
    assert read_lines(tmp_path / "run" / "log.jsonl")[-1]["step"] == reached


def test_a_mistake_is_told_once(boxes: BoxCohort, tmp_path: Path) -> None:
    too_small = flags(boxes, tmp_path / "run", "--batch_size=1")
    assert ended(start(trained, too_small, told=tmp_path / "told")) == [2, 2]
    assert not (tmp_path / "run").exists()
    assert what_was_told(tmp_path / "told").count(
        "error: --batch_size 1: expected a sample for each of the 2 processes") == 1


def what_one_sees(boxes: BoxCohort, folder: Path) -> int:
    """Be one of two processes, and write down what it sees."""
    seen: dict[str, object] = {}
    with joined_world() as world:
        rank, share = world.rank, world.share(3)
        layer = nn.Linear(1, 1)
        layer.weight.grad, layer.bias.grad = torch.full((1, 1), rank + 1.0), torch.full((1,), 10.0 * rank)
        world.add_gradients(layer.parameters(), share)
        seen["gradients"] = [layer.weight.grad.item(), layer.bias.grad.item()]
        seen["mean"] = world.mean({"loss": torch.tensor(3.0 * rank)}, share)["loss"].item()
        seen["any"] = [world.any(False), world.any(rank == 1), world.any(True)]
        seen["first"] = world.first(lambda: f"said by {rank}")
        seen["in turn"] = world.in_turn(lambda: found_in_turn(folder / "turn", rank))
        seen["mistakes"] = [left(world, in_together), left(world, in_first), left(world, in_in_turn)]
        seen["state"] = state_after_steps(boxes, world)
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    return 0


def found_in_turn(path: Path, rank: int) -> str | None:
    """Return what another process left in a file; the first one leaves it late."""
    if rank == 0:
        time.sleep(0.3)
        path.write_text("left")
        return None
    return path.read_text()


def in_together(world: World) -> None:
    """Make a mistake in the second process."""
    with world.together():
        if world.rank == 1:
            raise InputError(MISTAKE)


def in_first(world: World) -> None:
    """Make a mistake in what the first process does for all."""
    def work() -> None:
        raise InputError(MISTAKE)

    world.first(work)


def in_in_turn(world: World) -> None:
    """Make a mistake in the second process's turn."""
    def work() -> None:
        if world.rank == 1:
            raise InputError(MISTAKE)

    world.in_turn(work)


def left(world: World, work: Callable[[World], None]) -> str:
    """Return how a process leaves a piece of work."""
    try:
        work(world)
    except (InputError, SystemExit) as error:
        return f"{type(error).__name__} {error}"
    return "not at all"


def state_after_steps(boxes: BoxCohort, world: World) -> list[float]:
    """Return sums of all that the published generator and the discriminators hold after some steps."""
    from data.aligned_dataset import epoch_batches
    from data.integrity import read_cohort_slices
    from models import create_model
    from options.train_options import TrainOptions

    options = TrainOptions().parse([*boxes.flags, *SMALL, "--netG=published", "--ngf=2"])
    model, store = create_model(options, "cpu", world), read_cohort_slices(options).train
    for epoch in range(2):
        for draw in epoch_batches(store, 2, 0, epoch):
            own = draw.at(world.part(len(draw.place)))
            model.set_input(store.gather(own), own.context_above, own.context_below, None,
                            world.share(len(draw.place)))
            model.optimize_parameters()
    return [value.double().sum().item() for network in model.networks.values()
            for value in network.state_dict().values()]


def test_processes_agree(boxes: BoxCohort, tmp_path: Path) -> None:
    assert ended(start(what_one_sees, boxes, tmp_path, told=tmp_path / "told")) == [0, 0]
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for each in seen:
        assert each["gradients"] == pytest.approx([(2 * 1 + 2) / 3, 10 / 3])  # two samples of three, and one
        assert each["mean"] == pytest.approx(1.0)
        assert each["any"] == [False, True, True]
        assert each["first"] == "said by 0"
    assert [each["in turn"] for each in seen] == [None, "left"]
    assert [each["mistakes"] for each in seen] == [[f"InputError {MISTAKE}"] * 3, ["SystemExit 2"] * 3]
    assert seen[0]["state"] == seen[1]["state"]  # the power iterations of spectral norms among it


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_parts_make_up_the_batch(samples: int, size: int) -> None:
    worlds = [World(rank, size, rank, size) for rank in range(size)]
    taken = [number for world in worlds if world.share(samples) for number in world.part(samples).tolist()]
    assert sorted(taken) == list(range(samples))
    assert sum(world.share(samples) for world in worlds) == pytest.approx(1.0)
    assert all(len(world.part(samples)) for world in worlds)


def test_each_process_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert World(3, 4, 1, 2).own_device("auto") == "cuda:1" and chosen == [1]
    assert World().own_device("cuda:1") == "cuda:1" and World().own_device("auto") == "cuda"
    assert World(1, 2, 1, 2).own_device("cpu") == "cpu"
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES"):
        World(1, 2, 1, 2).own_device("cuda:1")
    with pytest.raises(InputError, match="a GPU for each of 3 processes, found 2"):
        World(0, 3, 0, 3).own_device("cuda")


@pytest.fixture
def heeded_interrupt() -> Iterator[None]:
    """Heed Ctrl-C, which a command in a shell's background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interrupt")
def test_the_same_signal_twice_at_once_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("models.schedule.time.monotonic", lambda: now[0])
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        for now[0] in (10.0, 10.5):
            signal.raise_signal(signal.SIGINT)
            assert stop.is_set
        now[0] = 12.0
        signal.raise_signal(signal.SIGINT)


def test_a_request_to_stop_that_comes_while_processes_agree_is_kept() -> None:
    class Slow(World):
        def any(self, flag: bool) -> bool:
            signal.raise_signal(signal.SIGTERM)  # after the flag was read, before the answer is there
            return flag

    with StopRequest() as stop:
        assert not stop.agreed(Slow())
        assert stop.agreed(World())
