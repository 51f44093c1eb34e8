"""A training step as a GPU takes it: recorded once, then replayed as a whole.

A step starts thousands of small kernels, which takes a processor longer than the GPU takes to run them. A
CUDA graph holds them all and starts them with one call. Every batch shape has a recording of its own; the
recordings share their working memory, since one is replayed after the other.
"""

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_STEPS = 3  # of each shape, taken as they are: libraries choose kernels, optimisers make their state

Work = Callable[..., dict[str, Tensor]]


class RecordedStep:
    """Take a step of training, from its fourth batch of one shape on by replaying its recording."""

    def __init__(self, work: Work, device: torch.device) -> None:
        """Begin without a recording.

        Args:
            work: one step. It takes tensors on the GPU, waits for nothing, compiles nothing once it has
                been taken for a shape, and returns its losses.
            device: the GPU.
        """
        self.work, self.stream = work, torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.taken: Counter[tuple[torch.Size, ...]] = Counter()
        self.recordings: dict[tuple[torch.Size, ...], Recording] = {}

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        """Take a step with a batch; return its losses."""
        shapes = tuple(tensor.shape for tensor in batch)
        self.taken[shapes] += 1
        with torch.cuda.device(self.stream.device):
            if self.taken[shapes] <= WARM_STEPS:
                return self._take(batch)
            if shapes not in self.recordings:
                self.recordings[shapes] = Recording(self.work, batch, self.stream, self.pool)
            return self.recordings[shapes].replay(batch)

    def _take(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Take a step as it is, on the stream that records later: gradients keep to their stream."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            losses = self.work(*batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return losses


class Recording:
    """The kernels of a step, and the memory in which it finds its batch and leaves its losses."""

    def __init__(self, work: Work, batch: tuple[Tensor, ...], stream: torch.cuda.Stream, pool: Any) -> None:
        """Record a step without taking it."""
        self.batch = [tensor.clone() for tensor in batch]
        gc.collect()  # another recording that has been dropped must not be taken apart during this one
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool, stream):
            losses = work(*self.batch)
            self.values = torch.stack(list(losses.values()))
        self.names = list(losses)

    def replay(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Take the step with a batch of the recorded shapes."""
        for held, tensor in zip(self.batch, batch, strict=True):
            held.copy_(tensor)
        self.graph.replay()
        return dict(zip(self.names, self.values.clone(), strict=True))  # the next replay overwrites them
