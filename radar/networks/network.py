"""What every feature network is. Legend: B images, F features."""

from torch import Tensor, nn

from radar.errors import InputError


class FeatureNetwork(nn.Module):
    """Images -> features (B, F).

    Attributes:
        label: name for columns, for example digits-cnn.
        digest: 8 hex digits of the weights.
        num_features: F.
        batch: images at once on a CPU: large maps are faster where they fit its cache.
    """

    label: str
    digest: str
    num_features: int
    batch: int = 256

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w) of several layers, of images (B, 3, H, W) in [-1, 1]; gradients flow through.

        Raises InputError for a network that shows none.
        """
        raise InputError(f"{self.label} shows no maps of its layers")

    def classify(self, images: Tensor) -> Tensor | None:
        """Predict labels (B,), where the network is a classifier of this data set; otherwise None."""
        return None

    def accuracy(self, images: Tensor, labels: Tensor) -> float | None:
        """Share of images (B, 3, H, W) that it gives their labels (B,); None where it is no classifier."""
        found = self.classify(images)
        return None if found is None else float((found == labels).double().mean())

    @property
    def title(self) -> str:
        """Name with hash: digits-cnn:1a2b3c4d."""
        return f"{self.label}:{self.digest}"
