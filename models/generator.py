"""Generators by name."""

from torch import nn

from models.generator_output import GeneratorOutput
from models.published_generator import PublishedGenerator
from models.residual_generator import ResidualGenerator
from util.errors import InputError

GENERATORS: dict[str, type[nn.Module]] = {"residual": ResidualGenerator, "published": PublishedGenerator}
DEFAULT_GENERATOR = "residual"

__all__ = ["DEFAULT_GENERATOR", "GENERATORS", "GeneratorOutput", "build_generator"]


def build_generator(kind: str = DEFAULT_GENERATOR, ngf: int = 16, attention: bool = True,
                    **others: bool) -> nn.Module:
    """Return a generator with fresh weights; its `arguments` rebuild it.

    Args:
        kind: `residual` (the default) or `published`.
        ngf: base width.
        attention: whether it takes the map of healthy attention.
        others: what this kind takes besides.

    Raises:
        InputError: there is no such generator.
    """
    if kind not in GENERATORS:
        raise InputError(f"--netG: expected one of {', '.join(GENERATORS)}, found '{kind}'")
    return GENERATORS[kind](ngf=ngf, attention=attention, **others)
