"""Features of images for FID and friends, by networks whose names every figure carries.

To add a network: a class in radar/encoders, a line in FEATURES. Others come as a TorchScript file or as a folder that
transformers reads, by path.
Legend: M images, F features.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from radar.config.lookup import choose
from radar.data import ImageData
from radar.encoders.folder import SCRIPTS, is_folder, load_encoder
from radar.encoders.network import FeatureNetwork
from radar.encoders.pretrained import EfficientNetLite0, Inception, TorchScript
from radar.errors import InputError
from radar.networks.classifier import cnn

FEATURES: dict[str, Callable[[ImageData, str], FeatureNetwork]] = {
    "cnn": cnn,
    "efficientnet_lite0": lambda data, cache: EfficientNetLite0(),
    "inception": lambda data, cache: Inception(),
}


def load_features(name: str, data: ImageData, cache: str) -> FeatureNetwork:
    """Open a feature network by name, or by the path of a TorchScript file or a folder; raises InputError."""
    if is_folder(name):
        return load_encoder(name)
    network = TorchScript(name, data.size) if is_path(name) else choose("feature network", name, FEATURES)(data, cache)
    return network.eval().requires_grad_(False)


def is_path(name: str) -> bool:
    """Whether a network is named by its file."""
    return Path(name).suffix in SCRIPTS


def check_features(names: list[str]) -> None:
    """Raise InputError for unknown or repeated networks, and for files that are no TorchScript: before any work."""
    if not names or len(set(names)) < len(names):
        raise InputError(f"evaluate.features={names} is not possible: one at least, and none twice, expected")
    for name in names:
        if is_path(name):
            check_script(name)
        elif is_folder(name):
            load_encoder(name)
        else:
            choose("feature network", name, FEATURES)
    labels = [Path(name).stem if is_path(name) else Path(name).name for name in names]
    if len(set(labels)) < len(labels):
        raise InputError(
            f"evaluate.features={names} is not possible: figures are named by the file, so names must differ"
        )


def check_script(path: str) -> None:
    """Raise InputError for a file that is no TorchScript; one that was read before is not read again."""
    try:
        state = Path(path).stat()
    except OSError as error:
        raise InputError(f"feature network {path} cannot be read: {error.strerror}") from error
    _check_script(path, state.st_size, state.st_mtime_ns)


@cache
def _check_script(path: str, size: int, changed: int) -> None:
    TorchScript(path)


View = Callable[[Tensor], Tensor | None]  # images (B, 3, H, W) uint8 -> what a network makes of them, row by row


def extract(network: FeatureNetwork, images: Tensor) -> Tensor:
    """Features (M, F) float64 of images (M, 3, H, W) uint8."""
    found = shown(network, network, images)
    assert found is not None
    return found


@torch.inference_mode()
def shown(network: FeatureNetwork, view: View, images: Tensor) -> Tensor | None:
    """What a view of a network shows, float64, of images (M, 3, H, W) uint8; None where it shows nothing."""
    device = next(network.buffers(), next(network.parameters(), images)).device
    batch = network.batch if device.type == "cpu" else 256
    parts = [part if len(part) > 1 else part.repeat(2, 1, 1, 1) for part in images.split(batch)]  # see in_company
    with torch.backends.cudnn.flags(allow_tf32=False):  # as precise as on a CPU, with which they are compared
        found = [view(part.to(device)) for part in parts]
    if any(part is None for part in found):
        return None
    return torch.cat([part.double().cpu() for part in found if part is not None])[: len(images)]
