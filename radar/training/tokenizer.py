"""The LightningModule that trains a learned tokenizer.

Legend: B images, N cells, V codes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from radar.config.lookup import choose
from radar.config.options import Config
from radar.data.batches import Batch
from radar.encoders.network import FeatureNetwork
from radar.parts import Part
from radar.tokenizers import Learned, code_counts, codebook_use, normalise, reconstruction_loss
from radar.training.adversary import build_adversary
from radar.training.devices import over_devices
from radar.training.optimizers import OPTIMIZERS, Together, sorted_weights
from radar.training.trained import TrainedModule

BETAS = (0.5, 0.9)  # of a discriminator, as in VQGAN


def perceptual_distance(network: FeatureNetwork, restored: Tensor, images: Tensor) -> Tensor:
    """Mean squared distance of normalised maps, summed over layers: LPIPS (arXiv 1801.03924) with equal weights.

    Of images (B, 3, H, W), restored in about [-1, 1] and uint8.
    """
    with torch.no_grad():
        there = network.to(restored.device).maps(normalise(images))
    pairs = zip(network.maps(restored), there, strict=True)
    return torch.stack([(F.normalize(a) - F.normalize(b)).square().sum(1).mean() for a, b in pairs]).sum()


class TokenizerModule(TrainedModule):
    """A convolutional tokenizer that learns to restore images.

    Args:
        config, tokenizer, origin: all options, what learns, names of what options say by path.
        networks: frozen ones, whose maps are to be restored as well as the pixels.
        side: pixels of the shorter side of an image, by which a discriminator has its depth.
    """

    judged_by = "val/mse"

    def __init__(
        self,
        config: Config,
        tokenizer: Learned,
        origin: dict[str, str] | None = None,
        networks: Sequence[FeatureNetwork] = (),
        side: int = 0,
    ) -> None:
        super().__init__(config, origin)
        self.tokenizer = tokenizer
        self.adversary = build_adversary(config.train, side) if side else None
        self.networks = tuple(networks)  # no part of the module: neither trained nor in its checkpoints
        self._counts = torch.zeros(tokenizer.vocabulary)
        self._error = torch.zeros(2, dtype=torch.float64)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Reconstruction loss plus the quantiser's own."""
        images, part = batch.inputs, batch.place
        self.seed_batch(batch.number)
        restored, tokens, quantiser = self.tokenizer(images)
        found = {"loss": reconstruction_loss(restored, images)}
        nothing = restored.new_zeros(())
        seen = sum((perceptual_distance(network, restored, images) for network in self.networks), nothing)
        loss = wanted = found["loss"] + self.config.train.perceptual_weight * seen
        if self.adversary is not None:
            last = self.tokenizer.last_weight
            judged = self.adversary(self.global_step, part, normalise(images), restored, wanted, last)
            loss, found = loss + judged.loss, found | judged.values
        if self.is_logged():
            self._log(part, found, tokens)
        return self.checked((loss + quantiser) * part.weight)

    def _log(self, part: Part, found: dict[str, Tensor], tokens: Tensor) -> None:
        """Log figures of the batch, and the use of its codes."""
        counts = code_counts(tokens, self.tokenizer.vocabulary)
        if (means := self.over_parts(part, found | {"counts": counts / part.images})) is not None:
            values = means | codebook_use(means.pop("counts")) | {"images_seen": self.images_seen()}
            self.log_values({f"train/{key}": value for key, value in values.items()})

    def build_optimizer(self) -> Optimizer:
        """That of the tokenizer; with a discriminator, which has its own, both as one."""
        if self.adversary is None:
            return super().build_optimizer()
        t = self.config.train
        own = choose("optimizer", t.optimizer or "adamw", OPTIMIZERS)(sorted_weights(self.tokenizer, ()), t)
        other = torch.optim.AdamW(self.adversary.parameters(), t.adversarial_lr, BETAS, weight_decay=0.0)
        return Together([own, other])

    def clipped(self) -> list[nn.Module]:
        """Both sides, each by itself."""
        return [self.tokenizer] if self.adversary is None else [self.tokenizer, self.adversary]

    def on_validation_epoch_start(self) -> None:
        """Start counting codes and errors."""
        self._counts, self._error = (
            torch.zeros(self.tokenizer.vocabulary),
            torch.zeros(2, dtype=torch.float64),
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count codes and squared errors of held-out images."""
        images, weight = batch.inputs, batch.place.weight
        tokens = self.tokenizer.encode(images)
        restored = self.tokenizer.decode(tokens, self.tokenizer.grid((images.shape[2], images.shape[3])))
        self._counts += weight * code_counts(tokens.cpu(), self.tokenizer.vocabulary)
        squared = (normalise(restored) - normalise(images)).double().square()
        self._error += weight * torch.tensor([float(squared.sum()), squared.numel()], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Log what was found."""
        self.log_validation()

    def validation_values(self) -> dict[str, float]:
        """Mean squared error on [-1, 1], codebook use and perplexity of the held-out images."""
        total, pixels = over_devices(self._error).tolist()
        use = codebook_use(over_devices(self._counts))
        return {"val/mse": total / pixels} | {f"val/{key}": value for key, value in use.items()}
