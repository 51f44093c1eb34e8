"""The conditional adversarial model: a two-stage generator against three patch discriminators.

Frames. The generator works in the opened frame, where the gap lies at the centre. Image losses and the image
discriminators look at the CT composed at the true height, in the original frame, so that like is compared
with like. The mask is judged in the opened frame. Heights are learned by their own loss.
"""

from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from data.augmentation import Augmentation, augment
from data.slice_input import RawSlices, SliceInput, SliceTruth, build_slice_input, build_slice_truth
from models.base_model import BaseModel, set_requires_grad
from models.discriminator import Discriminators
from models.generator import build_generator
from models.generator_output import GeneratorOutput
from models.losses import (
    ObjectiveWeights,
    edge_loss,
    gan_loss,
    masked_l1,
    masked_l2,
    relative_height_loss,
    soft_dice,
)
from models.muon import hidden_matrices
from models.recorded_step import RecordedStep
from util.geometry import compose

BETA2 = 0.999
IMAGE_ROWS = 128  # judged of the composed CT: 44 and more on either side of the restored ones
MASK_ROWS = 64    # judged of the opened mask: the gap and 12 rows on either side

T = TypeVar("T")


def objective_weights(options: Namespace) -> ObjectiveWeights:
    """Return the weights that suit --netG, with those that --lambda_* give."""
    given = {term.name: getattr(options, f"lambda_{term.name}") for term in fields(ObjectiveWeights)}
    return replace(ObjectiveWeights.for_generator(options.netG),
                   **{term: weight for term, weight in given.items() if weight is not None})


def central_rows(images: Tensor, rows: int) -> Tensor:
    """Return the central rows of images (B, C, R, W); all of them if there are no more."""
    first = max(0, (images.shape[2] - rows) // 2)
    return images[:, :, first:first + rows]


class Pix2PixModel(BaseModel):
    """Generator and discriminators, their objective, and one step of training."""

    def __init__(self, options: Namespace, device: str) -> None:
        super().__init__(device, options.compile)
        torch.manual_seed(options.seed)
        self.weights = objective_weights(options)
        self.amp, self.eager = options.amp, options.eager
        self.recorded: RecordedStep | None = None
        self.batch_size = options.batch_size
        betas = (options.beta1, BETA2)
        self.generator = build_generator(options.netG, options.ngf, options.attention != "none")
        matrices = hidden_matrices(self.generator) if options.optimizer == "muon" else []
        self.add_network("generator", self.generator, options.lr, betas, matrices)
        self.discriminators = Discriminators(options.ndf) if self.weights.gan > 0 else None
        if self.discriminators is not None:
            self.add_network("discriminators", self.discriminators, options.lr, betas)

    def settings(self) -> dict[str, Any]:
        """Return the flags that the model has settled: device and weights of the objective."""
        return {"device": str(self.device)} | {f"lambda_{term}": weight
                                               for term, weight in asdict(self.weights).items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo `state`; a recording would go on with what was there before."""
        super().load_state(state)
        self.recorded = None

    def set_input(self, raw: RawSlices, context_above: Tensor, context_below: Tensor,
                  augmentation: Augmentation | None = None, share: float = 1.0) -> None:
        """Set a batch of slices, on the device.

        Args:
            raw: slices in the original frame.
            context_above, context_below: (B,) visible rows on either side of the gap.
            augmentation: how the slices change first.
            share: of the step's batch that this is; the rest is with the other processes.
        """
        self.share = share
        raw = RawSlices(*(tensor.to(self.device, non_blocking=True) for tensor in raw))
        if augmentation is not None:
            raw = augment(raw, augmentation)
        context = (rows.to(self.device, non_blocking=True) for rows in (context_above, context_below))
        # dense, as a recording holds them: for views of the store a compiled step would be compiled anew
        self.batch = tuple(tensor.contiguous() for tensor in (*raw, *context))

    def optimize_parameters(self) -> None:
        """Take one step with the batch that was set; one process on a GPU replays a recording."""
        if self.device.type != "cuda" or self.world.size > 1 or self.eager:
            self.losses = self._take_step(*self.batch)
            return
        if self.recorded is None:
            self.recorded = RecordedStep(self._take_step, self.device)
        self.losses = self.recorded(*self.batch)

    def _take_step(self, *batch: Tensor) -> dict[str, Tensor]:
        """Teach the discriminators on the detached result, then the generator against them.

        Args:
            batch: as `set_input` keeps it.

        Returns:
            The losses.
        """
        self.batch = batch
        self.seen, self.truth, self.body = self._part(self._sample)(*batch)
        output, composed = self._part(self._draw)()
        self.losses = {}
        if self.discriminators is not None:
            self._step_discriminators(composed.detach(), output.body.detach())
        self._step_generator(output, composed)
        return self.world.mean(self.losses, self.share)

    def build_sample(self) -> None:
        """Build what the networks see and should draw, from the batch that was set."""
        self.seen, self.truth, self.body = self._sample(*self.batch)

    def _sample(self, *batch: Tensor) -> tuple[SliceInput, SliceTruth, Tensor]:
        """Return what the generator sees, what it should draw, and the body in the original frame."""
        *slices, above, below = batch
        raw = RawSlices(*slices)
        return build_slice_input(raw, above, below), build_slice_truth(raw, above, below), raw.body.float()

    def _part(self, work: Callable[..., T]) -> Callable[..., T]:
        """Return a part of the step as it is called: compiled, if --compile wants it.

        An epoch's last, smaller batch is not worth compiling for.
        """
        is_whole = len(self.batch[0]) == self.world.count(self.batch_size)
        return self.compiled(work) if self.compiles and is_whole else work

    def _draw(self) -> tuple[GeneratorOutput, Tensor]:
        """Return what the generator draws, and its CT composed at the true height."""
        with self._autocast():
            output = self.generator(self.seen)
        output = GeneratorOutput(*(result.float() for result in output))
        return output, self.compose_true(output.ct)

    def _step_discriminators(self, composed: Tensor, body: Tensor) -> None:
        """Teach the discriminators to tell real from restored."""
        set_requires_grad(self.networks["discriminators"].parameters(), True)
        losses = self._part(self._discrimination)(composed, body)
        self._update("discriminators", torch.stack(losses).sum())
        set_requires_grad(self.networks["discriminators"].parameters(), False)
        names = ("D_image", "D_mask", "D_target")
        self.losses |= {name: loss.detach() for name, loss in zip(names, losses, strict=True)}

    def _discrimination(self, composed: Tensor, body: Tensor) -> list[Tensor]:
        """Return each discriminator's loss; real and restored go through in one batch."""
        logits = self._judge(torch.cat([self.truth.ct, composed]), torch.cat([self.truth.body, body]),
                             self.body.repeat(2, 1, 1, 1))
        halves = [each.chunk(2) for each in logits]
        return [(gan_loss(real, True) + gan_loss(fake, False)) / 2 for real, fake in halves]

    def _step_generator(self, output: GeneratorOutput, composed: Tensor) -> None:
        """Move the generator down its objective."""
        terms = self._part(self.objective_terms)(output, composed)
        total = torch.stack([getattr(self.weights, name) * term for name, term in terms.items()]).sum()
        self._update("generator", total)
        self.losses |= {name: term.detach() for name, term in terms.items()} | {"total": total.detach()}

    def objective_terms(self, output: GeneratorOutput, composed: Tensor) -> dict[str, Tensor]:
        """Return the terms of the objective whose weight is not zero, unweighted, by their names."""
        terms = self.reconstruction_terms(output, composed)
        return terms | {"gan": self._adversarial(composed, output.body)} if self.weights.gan > 0 else terms

    def reconstruction_terms(self, output: GeneratorOutput, composed: Tensor) -> dict[str, Tensor]:
        """Return those of `objective_terms` that compare with the truth."""
        truth = self.truth
        everywhere = truth.ct.new_ones(1)  # outside the restored rows the composed CT equals the true one
        coarse = self.compose_true(output.coarse_ct)
        terms = {
            "l1": lambda: masked_l1(composed, truth.ct, everywhere),
            "coarse_l1": lambda: masked_l1(coarse, truth.ct, everywhere),
            "l2": lambda: masked_l2(composed, truth.ct, everywhere),
            "coarse_l2": lambda: masked_l2(coarse, truth.ct, everywhere),
            "body_dice": lambda: soft_dice(output.body, truth.body),
            "neighbours_dice": lambda: soft_dice(output.coarse_neighbours, truth.neighbours),
            "edge": lambda: edge_loss(output.body, truth.body),
            "height": lambda: relative_height_loss(output.height_mm, truth.height_mm),
            "coarse_height": lambda: relative_height_loss(output.coarse_height_mm, truth.height_mm),
        }
        return {name: term() for name, term in terms.items() if getattr(self.weights, name) > 0}

    def _adversarial(self, composed: Tensor, body: Tensor) -> Tensor:
        """Return how far the discriminators are from taking the result for real, their mean."""
        logits = self._judge(composed, body, self.body)
        return torch.stack([gan_loss(each, True) for each in logits]).mean()

    def _judge(self, image: Tensor, mask: Tensor, body: Tensor) -> list[Tensor]:
        """Return the three discriminators' logits.

        Args:
            image: (B, 1, R, C) composed CT.
            mask: (B, 1, R, C) body, opened frame.
            body: (B, 1, R, C) true body, original frame.
        """
        with self._autocast():
            logits = self.networks["discriminators"](
                central_rows(image, IMAGE_ROWS), central_rows(mask, MASK_ROWS),
                central_rows(body, IMAGE_ROWS))
        return [each.float() for each in logits]

    def compose_true(self, generated: Tensor) -> Tensor:
        """Close the gap at the true height: (B, 1, R, C) of the opened frame to the original frame."""
        truth = self.truth
        return compose(truth.ct, generated, truth.top, truth.bottom, truth.bottom - truth.top)

    def _autocast(self) -> AbstractContextManager[None]:
        """Return the context in which convolutions run in bfloat16, if --amp wants it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)

    def _update(self, name: str, loss: Tensor) -> None:
        """Take one step of a network's optimisers."""
        for optimizer in self.optimizers[name]:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.world.add_gradients(self.networks[name].parameters(), self.share)
        for optimizer in self.optimizers[name]:
            optimizer.step()
