"""Kinds of generators. To add one: a GenerativeModule, a function that builds it, a line in GENERATORS."""

from typing import Any, Protocol

from torch import Tensor

from radar.config.lookup import choose
from radar.config.options import Config
from radar.diffusion.spaces import Codes, Vectors
from radar.errors import InputError
from radar.tokenizers import Tokenizer
from radar.training.diffusion import DiffusionModule
from radar.training.generative import GenerativeModule
from radar.training.generator import GeneratorModule


class Build(Protocol):
    """Builds a generator of the tokens of a tokenizer; raises InputError where the parts do not fit together."""

    def __call__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        classes: int,
        grid: tuple[int, int],
        origin: dict[str, str] | None = None,
        step: Tensor | None = None,
        planned: bool = False,
    ) -> GenerativeModule:
        """See GeneratorModule."""
        ...


def autoregressive(config: Config, tokenizer: Tokenizer, *args: Any, **options: Any) -> GenerativeModule:
    """Tokens, one group after the other; raises InputError for what is of a diffusion alone."""
    if tokenizer.continuous:
        raise InputError(
            f"generator=autoregressive needs tokens, and tokenizer '{tokenizer.kind}' gives vectors; choose "
            "method=dit, or another tokenizer, and diffusion.latents=false"
        )
    options |= {"reader": tokenizer.reader}
    return GeneratorModule(config, tokenizer.vocabulary, *args, **options)


def diffusion(config: Config, tokenizer: Tokenizer, *args: Any, **options: Any) -> GenerativeModule:
    """Codes of all tokens, or vectors, out of noise; raises InputError for tokens of scales."""
    if not tokenizer.flat:
        raise InputError("generator=diffusion needs tokens that are one place of the image, not those of scales")
    space = Vectors(tokenizer.channels) if tokenizer.continuous else Codes(tokenizer.embed_all())
    return DiffusionModule(config, space, *args, **options)


GENERATORS: dict[str, Build] = {"autoregressive": autoregressive, "diffusion": diffusion}


def generator_builder(config: Config) -> Build:
    """Find what builds the generator of a configuration; raises InputError for an unknown kind."""
    return choose("generator", config.generator, GENERATORS)
