"""Data sets: image, label and what is known of them. To add one: a function returning ImageData, a line in DATASETS.

Legend: B images, N cells, M images of a split; images are (3, H, W) uint8.
"""

from collections.abc import Callable
from dataclasses import replace

from radar.config.options import DataConfig
from radar.config.registry import call, choose
from radar.data.augment import AUGMENTS, AugmentedImages
from radar.data.digits import digits
from radar.data.folder import folder
from radar.data.images import ImageData, ImageSet
from radar.data.shapes import shapes

__all__ = ["DATASETS", "AugmentedImages", "ImageData", "ImageSet", "load_data"]

DATASETS: dict[str, Callable[..., ImageData]] = {"digits": digits, "shapes": shapes, "folder": folder}


def load_data(config: DataConfig) -> ImageData:
    """Open a data set; raises InputError for an unknown name or option, or a folder that cannot be used."""
    options = {"root": config.root, "size": config.size, "images": config.images, "held_out": config.held_out}
    options |= {"skip_unreadable": config.skip_unreadable, "seed": config.seed, "background": config.background}
    options["cache"] = config.cache if config.root else None  # folder keeps there what it found out about each file
    choose("augmentation", config.augment, AUGMENTS)
    return replace(call("data", config.name, DATASETS, **options), augment=config.augment)
