"""A training step as the publication takes it, written plainly, to compare `Pix2PixModel`'s with.

Attention a sample at a time, features doubled before they are convolved and joined to the planes beside them,
real and restored judged one after the other, each pass with spectral norms of its own, contiguous memory,
Adam parameter by parameter.
"""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.pix2pix_model import Pix2PixModel


def in_plain_order(network: "nn.Module") -> Any:
    """Return a copy whose weights lie in memory channel by channel."""
    import torch

    return deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class PlainStep:
    """The step as published, with copies of a model's networks."""

    def __init__(self, model: "Pix2PixModel", crops: bool = True) -> None:
        """Copy the networks.

        Args:
            model: its batch is set.
            crops: whether the discriminators look at the model's crops, or at whole slices.
        """
        import torch

        from models.pix2pix_model import BETA2

        self.model, self.crops = model, crops
        self.generator, discriminators = (in_plain_order(network) for network in model.networks.values())
        self.discriminators = [discriminators.image, discriminators.mask, discriminators.target]
        rate = float(model.optimizers["generator"][0].param_groups[0]["lr"])
        self.optimizers = [torch.optim.Adam(network.parameters(), rate, (0.5, BETA2), foreach=False)
                           for network in (self.generator, discriminators)]
        self.losses: dict[str, Tensor] = {}

    def __call__(self) -> None:
        """Take one step."""
        from benchmarks.plain_generator import plain_generator

        self.model.build_sample()
        output = plain_generator(self.generator, self.model.seen)
        composed = self.model.compose_true(output.ct)
        self._step_discriminators(self._views(composed.detach(), output.body.detach()))
        self._step_generator(output, composed)

    def _views(self, image: "Tensor", mask: "Tensor") -> list["Tensor"]:
        """Return what each discriminator looks at."""
        from models.discriminator import crop_to_box
        from models.pix2pix_model import IMAGE_ROWS, MASK_ROWS, central_rows

        if not self.crops:
            return [image, mask, image * self.model.body]
        image, body = central_rows(image, IMAGE_ROWS), central_rows(self.model.body, IMAGE_ROWS)
        return [image, central_rows(mask, MASK_ROWS), crop_to_box(image, body)]

    def _step_discriminators(self, restored: list["Tensor"]) -> None:
        """Judge real and restored one after the other, and update."""
        from models.losses import gan_loss

        real = self._views(self.model.truth.ct, self.model.truth.body)
        self._freeze(False)
        self.optimizers[1].zero_grad()
        names = ("D_image", "D_mask", "D_target")
        for name, judge, false, true in zip(names, self.discriminators, restored, real, strict=True):
            loss = (gan_loss(judge(false), False) + gan_loss(judge(true), True)) / 2
            loss.backward()
            self.losses[name] = loss.detach()
        self.optimizers[1].step()

    def _step_generator(self, output: Any, composed: "Tensor") -> None:
        """Judge the restored again, add the other terms, and update."""
        import torch

        from models.losses import gan_loss

        weights = self.model.weights
        self._freeze(True)
        self.optimizers[0].zero_grad()
        views = zip(self.discriminators, self._views(composed, output.body), strict=True)
        adversarial = torch.stack([gan_loss(judge(view), True) for judge, view in views]).mean()
        terms = self.model.reconstruction_terms(output, composed) | {"gan": adversarial}
        total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        total.backward()
        self.optimizers[0].step()
        self.losses |= {name: term.detach() for name, term in terms.items()} | {"total": total.detach()}

    def _freeze(self, frozen: bool) -> None:
        """Switch the discriminators' own gradients off or on."""
        for judge in self.discriminators:
            judge.requires_grad_(not frozen)
