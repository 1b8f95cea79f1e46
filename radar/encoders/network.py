"""What every feature network is. Legend: B images, F features."""

import torch.nn.functional as F
from torch import Tensor, nn

from radar.errors import InputError

SPATIAL = 7  # channels of spatial features, as ADM (guided-diffusion) takes them from Inception


class FeatureNetwork(nn.Module):
    """Images -> features (B, F).

    Attributes:
        label: name for columns, for example digits-cnn.
        digest: 8 hex digits of the weights.
        num_features: F.
        batch: images at once on a CPU: large maps are faster where they fit its cache.
        knows_labels: whether the classes that it knows are those of the data set.
    """

    label: str
    digest: str
    num_features: int
    batch: int = 256
    knows_labels: bool = False

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w) of several layers, of images (B, 3, H, W) in [-1, 1]; gradients flow through.

        Raises InputError for a network that shows none.
        """
        raise InputError(f"{self.label} shows no maps of its layers")

    def cells(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """What it sees of each cell (B, C, h, w), of images (B, 3, H, W) in [-1, 1].

        By default the map that is nearest in size, brought to the grid.

        Raises InputError for a network that shows no maps, and a grid larger than all of them.
        """
        maps = self.maps(images)
        if grid[0] > maps[0].shape[2] or grid[1] > maps[0].shape[3]:
            raise InputError(
                f"a grid of {grid[0]}x{grid[1]} cells is not possible with {self.label}, whose largest map is "
                f"{maps[0].shape[2]}x{maps[0].shape[3]}"
            )
        nearest = min(maps, key=lambda found: abs(found.shape[2] - grid[0]))
        return F.interpolate(nearest.float(), grid, mode="bilinear", antialias=True)

    def probabilities(self, images: Tensor) -> Tensor | None:
        """Probabilities (B, C) of the classes that it knows; None where it is no classifier."""
        return None

    def spatial(self, images: Tensor) -> Tensor | None:
        """Features (B, F') that keep where things are: SPATIAL channels of a map; None where it shows none."""
        return None

    @property
    def title(self) -> str:
        """Name with hash: digits-cnn:1a2b3c4d."""
        return f"{self.label}:{self.digest}"
