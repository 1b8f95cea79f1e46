"""The LightningModule that trains a learned tokenizer.

Legend: B images, N cells, V codes.
"""

import torch
from torch import Tensor

from radar.config.options import Config
from radar.data.tokens import Batch
from radar.tokenizers import Learned, codebook_use, normalise, reconstruction_loss
from radar.training.trained import TrainedModule


class TokenizerModule(TrainedModule):
    """A convolutional tokenizer that learns to restore images."""

    judged_by = "val/mse"

    def __init__(self, config: Config, tokenizer: Learned, origin: dict[str, str] | None = None) -> None:
        super().__init__(config, origin)
        self.tokenizer = tokenizer
        self._counts = torch.zeros(tokenizer.vocabulary)
        self._error = torch.zeros(2, dtype=torch.float64)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Reconstruction loss plus the quantiser's own."""
        number, images, _, _ = batch
        self.seed_batch(number)
        restored, tokens, quantiser = self.tokenizer(images)
        loss = reconstruction_loss(restored, images)
        if self.is_logged(number):
            counts = torch.bincount(tokens.flatten(), minlength=self.tokenizer.vocabulary)
            use = {f"train/{key}": value for key, value in codebook_use(counts).items()}
            self.log_values({"train/loss": loss.detach(), "train/images_seen": self.images_seen(), **use})
        return self.checked(loss + quantiser)

    def on_validation_epoch_start(self) -> None:
        """Start counting codes and errors."""
        self._counts, self._error = (
            torch.zeros(self.tokenizer.vocabulary),
            torch.zeros(2, dtype=torch.float64),
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count codes and squared errors of held-out images."""
        _, images, _, _ = batch
        tokens = self.tokenizer.encode(images)
        restored = self.tokenizer.decode(tokens, self.tokenizer.grid((images.shape[2], images.shape[3])))
        self._counts += torch.bincount(tokens.flatten().cpu(), minlength=self.tokenizer.vocabulary)
        squared = (normalise(restored) - normalise(images)).double().square()
        self._error += torch.tensor([float(squared.sum()), squared.numel()], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Log what was found."""
        self.log_validation()

    def validation_values(self) -> dict[str, float]:
        """Mean squared error on [-1, 1], codebook use and perplexity of the held-out images."""
        values = {"val/mse": float(self._error[0] / self._error[1])}
        return values | {f"val/{key}": value for key, value in codebook_use(self._counts).items()}
