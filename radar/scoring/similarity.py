"""How alike two images are, whatever network looks."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

LEAST_SIDE = 6  # pixels: SSIM's window of 11 is reflected at the borders


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of images (B, 3, H, W) uint8 to others, one by one, (B,): at most 1, NaN where they are too small for it."""
    if min(first.shape[2:]) < LEAST_SIDE:
        return torch.full((len(first),), torch.nan)
    found = structural_similarity_index_measure(first.float(), second.float(), data_range=255.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.view(-1)
