"""Flat tokens of a frozen image encoder: what it sees of each cell, quantised; a decoder learns the pixels.

Legend: B images, h x w cells, N = h * w, C channels of the encoder, V codes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radar.encoders.folder import load_encoder
from radar.encoders.network import FeatureNetwork
from radar.errors import InputError
from radar.tokenizers.convolutional import Convolutional, fsq, vq
from radar.tokenizers.tokenizer import Tokenizer, normalise

CHUNK = 8  # images
FEATURES = 0.03  # weight of their loss: a cosine's is large beside squared errors of pixels, which at 1 are not learned


class Patches(nn.Module):
    """Features (B, C, h, w) of the cells of images, by an encoder that is no part of this module's weights.

    Standardised cell by cell; made of few images at a time, so that rounding does not depend on the batch.
    """

    def __init__(self, network: FeatureNetwork, downsample: int) -> None:
        super().__init__()
        self.held, self.downsample = (network,), downsample

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w)."""
        network, (height, width) = self.held[0].to(images.device), images.shape[2:]
        grid = height // self.downsample, width // self.downsample
        parts = [part if len(part) > 1 else part.repeat(2, 1, 1, 1) for part in images.split(CHUNK)]
        found = torch.cat([network.cells(part, grid).float() for part in parts])[: len(images)]
        found = F.layer_norm(found.movedim(1, 3), found.shape[1:2]).movedim(3, 1)
        return found.contiguous()  # PyTorch 2.13 crashes in the backward pass of a 1x1 convolution of other layouts


class Frozen(Convolutional):
    """A quantiser between a frozen encoder and a decoder that is trained.

    Two linear layers bring a cell's features to a code. From the code pixels are restored, and the features too, by
    their cosine (as BEiT v2, arXiv 2208.06366, which restores them alone): else a code need tell only what pixels need.
    """

    def __init__(self, network: FeatureNetwork, plain: Convolutional, width: int) -> None:
        nn.Module.__init__(self)
        self.kind = f"frozen-{network.digest}-{plain.kind}"
        self.vocabulary, self.downsample, self.quantiser = plain.vocabulary, plain.downsample, plain.quantiser
        self.channels, self.decoder = plain.channels, plain.decoder
        patches, last = Patches(network, plain.downsample), plain.encoder[-1]
        channels = network.cells(torch.zeros(2, 3, 64, 64), (2, 2)).shape[1]
        assert isinstance(last, nn.Conv2d)
        self.encoder = nn.Sequential(
            patches,
            nn.Conv2d(channels, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, last.out_channels, 1),
        )
        self.told = nn.Linear(last.out_channels, channels)
        self.register_buffer("encoder_digest", torch.tensor(list(bytes.fromhex(network.digest))))
        self.register_load_state_dict_pre_hook(_same_encoder)  # type: ignore[no-untyped-call]

    @property
    def origin(self) -> dict[str, str]:
        """The encoder."""
        return {"encoder": bytes(self.get_buffer("encoder_digest").tolist()).hex()}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Convolutional`; the loss has FEATURES of one less the mean cosine of the features and what codes tell."""
        features = self.encoder[0](normalise(images))
        restored, tokens, loss, quantised = self.through(self.encoder[1:](features))
        told = F.cosine_similarity(self.told(quantised), features.flatten(2).mT, dim=-1)
        return restored, tokens, loss + FEATURES * (1 - told.mean())


def _same_encoder(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Refuse weights that were trained with another encoder; raises InputError."""
    found, mine = state.get(f"{prefix}encoder_digest"), module.get_buffer("encoder_digest")
    if found is not None and not torch.equal(found.cpu(), mine.cpu()):
        raise InputError(
            f"this tokenizer was trained with another encoder: that one's weights are {bytes(found.tolist()).hex()}, "
            f"those of tokenizer.encoder {bytes(mine.tolist()).hex()}"
        )


def frozen(
    encoder: str = "efficientnet_lite0",
    codebook: int | None = None,
    fsq_levels: Sequence[int] | None = None,
    width: int = 64,
    downsample: int = 4,
    attention: bool = False,
    diversity: float | None = None,
) -> Tokenizer:
    """Features of `encoder`, by codes of `vq` (256 by default), or of `fsq` where its levels are given.

    Raises InputError for both at once, what is no encoder, and a width or a downsampling that is not possible.
    """
    if fsq_levels is not None and (codebook is not None or diversity is not None):
        raise InputError("tokenizer.fsq_levels are codes of another kind than tokenizer.codebook and diversity mean")
    if fsq_levels is not None:
        plain = fsq(fsq_levels, width, downsample, attention)
    else:
        plain = vq(codebook or 256, width, downsample, attention, diversity)
    assert isinstance(plain, Convolutional)
    return Frozen(load_encoder(encoder), plain, width)
