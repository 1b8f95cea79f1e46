"""Feature networks for FID and friends, each with a name that every figure carries.

`cnn` is a small classifier that is trained once per data set with a fixed seed, cached, and identified by the hash of
its weights. Processors of different kinds train different ones: those of some data sets come with the package, so
that their figures compare between machines. `inception` is torchmetrics' InceptionV3 (extra `fid`; it downloads
weights and has not been run here).
Legend: B images, F features.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from radar.config.registry import choose
from radar.data import ImageData
from radar.data.images import load_images
from radar.data.tokens import batch_indices
from radar.errors import InputError
from radar.files import replacing
from radar.provenance import weights_hash
from radar.tokenizers import normalise

RECIPE = "cnn-1"  # raise when architecture or training of the classifier changes
PACKAGED = Path(__file__).parent / "networks"  # copied from a cache; of digits, and of the shapes of one_model
FEATURE_WIDTH = 64


class FeatureNetwork(nn.Module):
    """Images -> features (B, F).

    Attributes:
        label: name for columns, for example digits-cnn.
        digest: 8 hex digits of the weights.
        num_features: F.
    """

    label: str
    digest: str
    num_features: int

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


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    return nn.Sequential(layer, nn.GroupNorm(8, outputs), nn.GELU())


class Classifier(FeatureNetwork):
    """3x3 convolutions that halve the image down to 4x4, 64 normalised features, classes."""

    num_features = FEATURE_WIDTH

    def __init__(self, label: str, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.label, self.digest = label, "untrained"
        halvings = max(1, (min(size) // 4).bit_length() - 1)
        self.convolutions = nn.Sequential(
            _convolution(3, 32, 1), _convolution(32, 64, 2), *(_convolution(64, 64, 2) for _ in range(halvings - 1)),
            _convolution(64, 64, 1), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(64 * 16, FEATURE_WIDTH), nn.LayerNorm(FEATURE_WIDTH),
        )  # fmt: skip
        self.head = nn.Sequential(nn.GELU(), nn.Linear(FEATURE_WIDTH, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> features (B, F)."""
        return self.convolutions(normalise(images))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def classify(self, images: Tensor) -> Tensor:
        """Predict labels (B,)."""
        device = next(self.parameters()).device
        return torch.cat([self.head(self(part.to(device))).argmax(-1).cpu() for part in images.split(256)])


def train_classifier(data: ImageData, steps: int = 500, batch: int = 64) -> Classifier:
    """Train on the train split with a fixed seed: the same network on every call on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Classifier(f"{data.name}-cnn", len(data.classes), data.size).train()
        images, labels = split_images(data.train, most=50_000)
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for step in tqdm(range(steps), f"train {network.label}", disable=None, leave=False):
            index = torch.from_numpy(batch_indices(0, step, batch, len(labels)))
            loss = F.cross_entropy(network.head(network(images[index])), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def cnn(data: ImageData, cache: str) -> FeatureNetwork:
    """Open the data set's classifier: the one of the package, or of the cache, or train it.

    Raises InputError if the file is damaged.
    """
    key = hashlib.sha256(f"{RECIPE} {data.identity}".encode()).hexdigest()[:12]
    name = f"features-{data.name}-cnn-{key}.pt"
    path = (PACKAGED if (PACKAGED / name).exists() else Path(cache)) / name
    if not path.exists():
        trained = train_classifier(data)
        with replacing(path) as temporary:
            torch.save(trained.state_dict(), temporary)
    network = Classifier(f"{data.name}-cnn", len(data.classes), data.size)
    try:
        network.load_state_dict(torch.load(path, weights_only=True))
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"feature network {path} is damaged; delete it ({type(error).__name__})") from error
    network.digest = weights_hash(network, 8)
    return network.eval().requires_grad_(False)


class Inception(FeatureNetwork):
    """InceptionV3 as torchmetrics and torch-fidelity give it: 2048 features."""

    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])
        except (ImportError, ModuleNotFoundError) as error:
            raise InputError(
                "evaluate.features=inception needs the extra: pip install 'radar-ablations[fid]'"
            ) from error
        self.label, self.digest = "inception-v3-compat", weights_hash(self.network, 8)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> features (B, 2048)."""
        return self.network(images)  # type: ignore[no-any-return]


FEATURES: dict[str, Callable[[ImageData, str], FeatureNetwork]] = {
    "cnn": cnn,
    "inception": lambda data, cache: Inception().eval(),
}


def load_features(name: str, data: ImageData, cache: str) -> FeatureNetwork:
    """Open a feature network by name; raises InputError."""
    return choose("feature network", name, FEATURES)(data, cache)


@torch.inference_mode()
def extract(network: FeatureNetwork, images: Tensor, batch: int = 256) -> Tensor:
    """Features (M, F) float64 of images (M, 3, H, W) uint8."""
    device = next(network.buffers(), next(network.parameters(), images)).device
    parts = [part if len(part) > 1 else part.repeat(2, 1, 1, 1) for part in images.split(batch)]  # see in_company
    return torch.cat([network(part.to(device)).double().cpu() for part in parts])[: len(images)]


def split_images(split: Any, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Load images and labels of a split, all or `most` evenly spread."""
    return load_images(split, spread(len(split), len(split) if most is None else most))


def spread(count: int, most: int) -> Sequence[int]:
    """All numbers below `count`, or `most` of them, evenly spread."""
    return range(count) if most >= count else np.linspace(0, count - 1, most).round().astype(int).tolist()
