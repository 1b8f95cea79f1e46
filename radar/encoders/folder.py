"""Image encoders that transformers reads from a local folder: CLIP, SigLIP, DINOv2, DINOv3, ViT and what is built so.

Legend: B images, h x w cells, C channels.
"""

import inspect
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radar.config.lookup import choose
from radar.encoders.network import FeatureNetwork
from radar.encoders.pretrained import EfficientNetLite0
from radar.errors import InputError
from radar.provenance import weights_hash

SCRIPTS = (".pt", ".pth", ".ts", ".jit")
PREPROCESSOR = "preprocessor_config.json"


class ImageEncoder(FeatureNetwork):
    """The vision part of a folder's model; features are the mean over its patches.

    A folder has config.json, weights and preprocessor_config.json, whose mean and standard deviation are used. Images
    are enlarged for one patch per cell; without a grid, so that their shorter side is that of its training.

    Raises InputError for a folder that is no such encoder, and where transformers is not installed.
    """

    batch = 16

    def __init__(self, path: str) -> None:
        super().__init__()
        mean, deviation = _statistics(Path(path))
        self.network = _read(path)
        shape: Any = self.network.config
        if not all(isinstance(getattr(shape, name, None), int) for name in ("patch_size", "image_size", "hidden_size")):
            raise InputError(f"encoder {path} is no image encoder of patches: it is {type(self.network).__name__}")
        self.patch, self.side, self.num_features = shape.patch_size, shape.image_size, shape.hidden_size
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.label, self.digest = Path(path).name, weights_hash(self, 8)
        self._try(path)

    @torch.no_grad()
    def _try(self, path: str) -> None:
        """Raise InputError where two cells by three do not give their patches."""
        try:
            found = tuple(self.eval().cells(torch.zeros(2, 3, 2 * self.patch, 3 * self.patch), (2, 3)).shape)
        except Exception:  # any, by what the model takes
            found = ()
        if found != (2, self.num_features, 2, 3):
            raise InputError(f"encoder {path} does not give one token per patch: it is {type(self.network).__name__}")

    def cells(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w), one patch per cell: positions are interpolated by the encoder."""
        size = [self.patch * side for side in grid]
        large = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
        pixels = ((large + 1) / 2 - self.mean) / self.deviation  # type: ignore[operator]
        found = self.network(pixels, **self._options).last_hidden_state[:, -grid[0] * grid[1] :]  # after what leads
        return found.mT.unflatten(2, grid)  # type: ignore[no-any-return]

    @property
    def _options(self) -> dict[str, bool]:
        """Encoders whose positions always fit do not take the option."""
        taken = inspect.signature(self.network.forward).parameters
        return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in taken else {}

    def maps(self, images: Tensor) -> list[Tensor]:
        """One map, at the size of its training."""
        height, width = images.shape[2:]
        patches = self.side // self.patch / min(height, width)
        return [self.cells(images, (round(height * patches), round(width * patches)))]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> features (B, C)."""
        return self.maps(images.float() / 127.5 - 1)[0].mean((2, 3))


def _read(path: str) -> nn.Module:
    """The vision part of a folder's model, in float32; of CLIP and SigLIP, texts are not asked for.

    A pooler, whose output is not used, may lack weights; raises InputError for anything else that does.
    """
    try:
        from transformers import AutoModel, logging
    except ImportError as error:
        raise InputError(f"encoder {path} needs the extra: pip install 'radar-ablations[encoders]'") from error
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    options = {"local_files_only": True, "trust_remote_code": False, "dtype": torch.float32}
    try:
        model, found = AutoModel.from_pretrained(path, output_loading_info=True, **options)
    except Exception as error:  # of transformers, safetensors and huggingface_hub
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"encoder {path} cannot be read by transformers: {reason[:200]}") from error
    if missing := sorted(name for name in found["missing_keys"] if "pooler" not in name):
        raise InputError(f"encoder {path} lacks weights: {len(missing)}, the first of which is {missing[0]}")
    network: nn.Module = getattr(model, "vision_model", model)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # type: ignore[assignment]
    return network


def _statistics(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3, 1, 1) of pixels in [0, 1] that an encoder was trained with."""
    try:
        found = json.loads((folder / PREPROCESSOR).read_text())
        mean, deviation = (torch.tensor(found[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"encoder {folder} is no folder of an image encoder: {PREPROCESSOR} with image_mean and image_std expected"
        ) from error
    return mean, deviation


ENCODERS: dict[str, Callable[[], FeatureNetwork]] = {"efficientnet_lite0": EfficientNetLite0}


def load_encoder(name: str) -> FeatureNetwork:
    """Open a network that was trained on other images, by name or by a folder, once; raises InputError."""
    changed = max((each.stat().st_mtime_ns for each in Path(name).glob("*")), default=0) if is_folder(name) else 0
    return _opened(name, changed)


@cache
def _opened(name: str, changed: int) -> FeatureNetwork:
    network = ImageEncoder(name) if is_folder(name) else choose("encoder", name, ENCODERS)()
    return network.eval().requires_grad_(False)


def is_folder(name: str) -> bool:
    """Whether a network is named by the folder that transformers reads it from."""
    return ("/" in name or Path(name).is_dir()) and Path(name).suffix not in SCRIPTS
