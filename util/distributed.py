"""One training run in several processes, as torchrun starts them; a single process is a world of one.

Every process computes a part of the batch. Gradients are added in one all-reduce per network rather than by
`DistributedDataParallel`: within a step the discriminators are trained and then judge while frozen, which its
hooks do not allow, and parts of a last small batch must weigh by their samples, which its mean does not do.
The first process alone writes; what it decides, and the mistakes of any, all of them learn.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from util.device import choose_device
from util.errors import InputError

if TYPE_CHECKING:  # PyTorch takes seconds to import, and a world of one does without
    from torch import Tensor, nn

Result = TypeVar("Result")

# How long the others wait for the first one's validation or for the slowest one's data. A process that dies
# is noticed at once, since its connections close.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: of this process among all; the first is 0.
        size: number of processes.
        local_rank, local_size: the same among those of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def own_device(self, device: str) -> str:
        """Return the device of this process where --device names that of the run: the GPU of its local rank.

        Raises:
            InputError: there is no such GPU, or there are several processes and one GPU is named, or too few.
        """
        import torch

        device = choose_device(device)
        if self.size == 1 or device == "cpu":
            return device
        if device != "cuda":
            raise InputError(f"--gpu_ids {device.partition(':')[2]}: expected no number of a GPU under "
                             f"torchrun, whose processes take one each; choose by CUDA_VISIBLE_DEVICES")
        if torch.cuda.device_count() < self.local_size:
            raise InputError(f"--device cuda: expected a GPU for each of {self.local_size} processes, found "
                             f"{torch.cuda.device_count()}; start torchrun with that --nproc_per_node")
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"

    def check_batch(self, samples: int) -> None:
        """Check that a full batch has something for every process.

        Raises:
            InputError: it has not.
        """
        if samples < self.size:
            raise InputError(f"--batch_size {samples}: expected a sample for each of the {self.size} "
                             f"processes, which share the batch; start fewer of them, or raise it")

    def part(self, samples: int) -> "Tensor":
        """Return which samples of a batch this process takes, int64.

        One for which none is left takes the first again, without a share: all take equal steps.
        """
        import torch

        return torch.tensor([*range(self.rank, samples, self.size)] or [0])

    def count(self, samples: int) -> int:
        """Return how many samples of a batch this process takes."""
        return len(range(self.rank, samples, self.size))

    def share(self, samples: int) -> float:
        """Return the share of a batch that this process takes, 0..1."""
        return self.count(samples) / samples

    def say(self, device: str) -> str:
        """Return in words where the run computes."""
        return device if self.size == 1 else f"{self.size} processes, each on {device.partition(':')[0]}"

    def add_gradients(self, parameters: Iterable["nn.Parameter"], share: float) -> None:
        """Replace each gradient by the sum of all processes' gradients, each times its share."""
        import torch

        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) * share
        self._add(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, losses: Mapping[str, "Tensor"], share: float) -> dict[str, "Tensor"]:
        """Return the whole batch's losses from those of its parts."""
        import torch

        if self.size == 1:
            return dict(losses)
        values = torch.stack(list(losses.values())) * share
        self._add(values)
        return dict(zip(losses, values, strict=True))

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        import torch

        if self.size == 1:
            return flag
        count = torch.tensor(float(flag))
        self._add(count)
        return bool(count)

    def _add(self, values: "Tensor") -> None:
        """Add a tensor of all processes up, in place."""
        from torch import distributed

        with self._answering():
            distributed.all_reduce(values)

    def first(self, work: Callable[[], Result]) -> Result:
        """Have work done by the first process alone, while the others wait; return its result in every one.

        Raises:
            InputError: the work's own.
            SystemExit: in the other processes where there is one.
        """
        if self.size == 1:
            return work()
        from torch import distributed

        outcome: list[Any] = [None, ""]
        if self.is_first:
            try:
                outcome[0] = work()
            except InputError as error:
                outcome[1] = str(error)
        with self._answering():
            distributed.broadcast_object_list(outcome)
        self._leave(outcome[1])
        return outcome[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """End every process where one finds a mistake in what it does within. None may wait for others there.

        Raises:
            InputError: the mistake.
            SystemExit: in the other processes.
        """
        if self.size == 1:
            yield
            return
        from torch import distributed

        mistake = ""
        try:
            yield
        except InputError as error:
            mistake = str(error)
        mistakes = [""] * self.size
        with self._answering():
            distributed.all_gather_object(mistakes, mistake)
        self._leave(next(filter(None, mistakes), ""))

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Have work done by all, on each machine by one before the others, who find on disk what it left.

        Raises:
            InputError: the work's own, of any process.
            SystemExit: in the other processes.
        """
        results = []
        for leads in (True, False):
            with self.together():
                if (self.local_rank == 0) == leads:
                    results.append(work())
        return results[0]

    def _leave(self, mistake: str) -> None:
        """Tell a mistake that all processes know, if there is one, once."""
        if mistake:
            raise InputError(mistake) if self.is_first else SystemExit(2)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell in words that another process is gone, instead of an error of the network."""
        try:
            yield
        except RuntimeError as error:
            if self.rank > 1:  # one of the first two is left to tell it
                raise SystemExit(2) from error
            raise InputError(
                f"process {self.rank} of {self.size}: expected the others to answer, found that one ended "
                f"or cannot be reached ({str(error).splitlines()[0]:.120}); see what it said itself; the run "
                f"goes on from its last save with --continue_train") from error


ALONE = World()


@contextmanager
def joined_world() -> Iterator[World]:
    """Join the run's other processes, if torchrun started this one; all but the first then print nothing.

    `python train.py` is a world of one: without a process group, and without torch being imported.
    """
    number = {name: int(os.environ.get(name, default)) for name, default in
              (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))}
    world = World(*number.values())
    if world.size == 1:
        yield world
        return
    import torch
    from torch import distributed

    both = torch.cuda.is_available() and distributed.is_nccl_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=PATIENCE)
    with ExitStack() as silence:
        if not world.is_first:
            nowhere = silence.enter_context(Path(os.devnull).open("w"))
            silence.enter_context(redirect_stdout(nowhere))
            silence.enter_context(redirect_stderr(nowhere))
        yield world
    distributed.destroy_process_group()
