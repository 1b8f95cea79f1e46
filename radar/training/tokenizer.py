"""The LightningModule that trains a learned tokenizer.

Legend: B images, N cells, V codes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from radar.config.options import Config
from radar.data.batches import Batch
from radar.networks.network import FeatureNetwork
from radar.tokenizers import Learned, codebook_use, normalise, reconstruction_loss
from radar.training.devices import over_devices
from radar.training.trained import TrainedModule


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
    """

    judged_by = "val/mse"

    def __init__(
        self,
        config: Config,
        tokenizer: Learned,
        origin: dict[str, str] | None = None,
        networks: Sequence[FeatureNetwork] = (),
    ) -> None:
        super().__init__(config, origin)
        self.tokenizer = tokenizer
        self.networks = tuple(networks)  # no part of the module: neither trained nor in its checkpoints
        self._counts = torch.zeros(tokenizer.vocabulary)
        self._error = torch.zeros(2, dtype=torch.float64)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Reconstruction loss plus the quantiser's own."""
        images, part = batch.inputs, batch.place
        self.seed_batch(batch.number)
        restored, tokens, quantiser = self.tokenizer(images)
        loss = reconstruction_loss(restored, images)
        if self.is_logged():
            counts = torch.bincount(tokens.flatten(), minlength=self.tokenizer.vocabulary).float()
            if (means := self.over_parts(part, {"loss": loss, "counts": counts / part.images})) is not None:
                use = {f"train/{key}": value for key, value in codebook_use(means["counts"]).items()}
                self.log_values({"train/loss": means["loss"], "train/images_seen": self.images_seen(), **use})
        seen = sum((perceptual_distance(network, restored, images) for network in self.networks), loss.new_zeros(()))
        return self.checked((loss + quantiser + self.config.train.perceptual_weight * seen) * part.weight)

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
        self._counts += weight * torch.bincount(tokens.flatten().cpu(), minlength=self.tokenizer.vocabulary)
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
