"""Data sets: image, label and what is known of them. To add one: a function returning ImageData, a line in DATASETS.

Legend: B images, N cells, M images of a split; images are (3, H, W) uint8.
"""

from collections.abc import Callable
from dataclasses import replace

from radar.config.lookup import call, choose, takes
from radar.config.options import DataConfig
from radar.data.augment import AUGMENTS, AugmentedImages
from radar.data.codes import codes
from radar.data.digits import digits
from radar.data.fashion import fashion
from radar.data.folder import folder
from radar.data.images import ImageData, ImageSet
from radar.data.shapes import shapes
from radar.data.shards import shards
from radar.errors import InputError

__all__ = ["DATASETS", "AugmentedImages", "ImageData", "ImageSet", "load_data"]

DATASETS: dict[str, Callable[..., ImageData]] = {
    "digits": digits,
    "fashion": fashion,
    "shapes": shapes,
    "folder": folder,
    "shards": shards,
    "codes": codes,
}


def load_data(config: DataConfig) -> ImageData:
    """Open a data set; raises InputError for an unknown name or option, or a folder that cannot be used."""
    choose("augmentation", config.augment, AUGMENTS)
    options = vars(config) | {"cache": config.cache if takes(config.name, DATASETS, "cache") else None}
    own = {key: value for key, value in options.items() if key not in ("name", "augment", "workers")}
    data = replace(call("data", config.name, DATASETS, **own), augment=config.augment)
    if data.codes is not None and config.augment != "none":
        raise InputError(f"data.augment={config.augment} has no effect on codes, which have their views already")
    return data
