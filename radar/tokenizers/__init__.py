"""Tokenizers: image <-> tokens. `levels` is lossless and has no weights; `vq`, `fsq`, `multiscale`, `frozen` and
`autoencoder` are learned here; `llamagen_vq`, `var_vae` and `kl_vae` are read from published weights.

Legend: B images, V codes. To add one: a class with the methods of Tokenizer, one line in TOKENIZERS.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from radar.config.lookup import call
from radar.config.options import TokenizerConfig
from radar.provenance import weights_hash
from radar.tokenizers.convolutional import Convolutional, fsq, vq
from radar.tokenizers.frozen import frozen
from radar.tokenizers.latents import Latents, autoencoder, kl_vae
from radar.tokenizers.levels import Levels
from radar.tokenizers.llamagen import LlamaGenVQ
from radar.tokenizers.multiscale import Multiscale, multiscale
from radar.tokenizers.tokenizer import Learned, Tokenizer, normalise, to_pixels
from radar.tokenizers.var_vae import var_vae

__all__ = [
    "TOKENIZERS",
    "Convolutional",
    "Latents",
    "Learned",
    "Multiscale",
    "Tokenizer",
    "fsq",
    "normalise",
    "to_pixels",
    "vq",
]

TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {
    "levels": Levels,
    "vq": vq,
    "fsq": fsq,
    "multiscale": multiscale,
    "frozen": frozen,
    "autoencoder": autoencoder,
    "llamagen_vq": LlamaGenVQ,
    "var_vae": var_vae,
    "kl_vae": kl_vae,
}


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Build an untrained tokenizer; raises InputError for an unknown name or option."""
    options = {key: value for key, value in vars(config).items() if key not in ("name", "checkpoint")}
    return call("tokenizer", config.name, TOKENIZERS, **options)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Name a tokenizer by its kind and weights: levels-17-0123456789ab."""
    return f"{tokenizer.kind}-{weights_hash(tokenizer)}"


def reconstruction_loss(restored: Tensor, images: Tensor) -> Tensor:
    """Mean squared plus mean absolute error on [-1, 1]."""
    target = normalise(images)
    return F.mse_loss(restored, target) + F.l1_loss(restored, target)


def code_counts(tokens: Tensor, vocabulary: int) -> Tensor:
    """How often each code is used, (V,) float32; vectors in place of tokens have none."""
    return torch.bincount(tokens.flatten(), minlength=vocabulary).float() if vocabulary else torch.zeros(0)


def codebook_use(counts: Tensor) -> dict[str, float]:
    """Share of codes used at all, and perplexity exp(entropy), from counts (V,); nothing where there are no codes."""
    if not len(counts):
        return {}
    p = counts.double() / counts.sum()
    return {
        "codebook_use": float((counts > 0).double().mean()),
        "perplexity": float(torch.special.entr(p).sum().exp()),
    }
