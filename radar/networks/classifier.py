"""`cnn`: a small classifier that is trained once per data set with a fixed seed, cached, and named by its weights.

Processors of different kinds train different ones: those of some data sets come with the package, so that their
figures compare between machines. Legend: B images, F features.
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radar.data import ImageData
from radar.data.batches import batch_indices
from radar.data.images import split_images
from radar.encoders.network import SPATIAL, FeatureNetwork
from radar.errors import InputError
from radar.files import replacing
from radar.progress import Bar
from radar.provenance import weights_hash
from radar.tokenizers import normalise

RECIPE = "cnn-2"  # raise when architecture or training of the classifier changes
EPOCHS = 6  # through the images, where that is more than 500 steps
PACKAGED = Path(__file__).parent  # of digits, fashion and the shapes of one_model, whichever recipe they had
FEATURE_WIDTH = 64
LARGEST_MAP = 17  # cells per side of spatial features


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    return nn.Sequential(layer, nn.GroupNorm(8, outputs), nn.GELU())


class Classifier(FeatureNetwork):
    """3x3 convolutions that halve the image down to 4x4, 64 normalised features, classes."""

    num_features = FEATURE_WIDTH
    knows_labels = True

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

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps of all convolutions."""
        found, x = [], images
        for layer in list(self.convolutions)[:-5]:
            found.append(x := layer(x))
        return found

    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities (B, C) of the data set's classes."""
        return self.head(self(images)).softmax(-1)  # type: ignore[no-any-return]

    def spatial(self, images: Tensor) -> Tensor:
        """First channels of the first map of at most 17 x 17 cells, as large as Inception's."""
        fits = (found for found in self.maps(normalise(images)) if found.shape[-1] <= LARGEST_MAP)
        return next(fits)[:, :SPATIAL].flatten(1)


def train_classifier(data: ImageData, steps: int | None = None, batch: int = 64) -> Classifier:
    """Train on the train split with a fixed seed: the same network on every call on one machine.

    500 steps, or EPOCHS times through the images if that is more.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Classifier(f"{data.name}-cnn", len(data.classes), data.size).train()
        images, labels = split_images(data.train, most=60_000)
        steps = max(500, EPOCHS * len(labels) // batch) if steps is None else steps
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for step in Bar(range(steps), f"train {network.label}"):
            index = torch.from_numpy(batch_indices(0, step, batch, len(labels)))
            loss = F.cross_entropy(network.head(network(images[index])), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def file_name(data: ImageData, kind: str) -> str:
    """Name the file of a data set's classifier, of one kind."""
    return f"features-{data.name}-cnn-{hashlib.sha256(f'{kind} {data.identity}'.encode()).hexdigest()[:12]}.pt"


def cnn(data: ImageData, cache: str) -> FeatureNetwork:
    """Open the data set's classifier: the one of the package, or of the cache, or train it.

    Raises InputError if the file is damaged.
    """
    if not len(data.train):
        raise InputError(f"feature network cnn is trained on images, and data '{data.name}' has none; choose another")
    packaged, path = PACKAGED / file_name(data, "packaged"), Path(cache) / file_name(data, RECIPE)
    if packaged.exists():
        path = packaged
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
