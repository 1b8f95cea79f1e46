"""Kinds of generators. To add one: a GenerativeModule, a function that builds it, a line in GENERATORS."""

from typing import Protocol

from torch import Tensor

from radar.config.lookup import choose
from radar.config.options import Config
from radar.training.diffusion import DiffusionModule
from radar.training.generative import GenerativeModule
from radar.training.generator import GeneratorModule


class Build(Protocol):
    """Builds a generator of tokens with these codes, (V, C); raises InputError where the parts do not fit together."""

    def __call__(
        self,
        config: Config,
        codes: Tensor,
        classes: int,
        grid: tuple[int, int],
        origin: dict[str, str] | None = None,
        step: Tensor | None = None,
        planned: bool = False,
    ) -> GenerativeModule:
        """See GeneratorModule."""
        ...


def autoregressive(config: Config, codes: Tensor, *args: object, **options: object) -> GenerativeModule:
    """Tokens, one group after the other: of the codes only their number counts."""
    return GeneratorModule(config, len(codes), *args, **options)  # type: ignore[arg-type]


GENERATORS: dict[str, Build] = {"autoregressive": autoregressive, "diffusion": DiffusionModule}


def generator_builder(config: Config) -> Build:
    """Find what builds the generator of a configuration; raises InputError for an unknown kind."""
    return choose("generator", config.generator, GENERATORS)
