"""Files of a reference set's statistics: those of `radar reference`, which say where they come from, and ADM's.

ADM's layout (guided-diffusion's VIRTUAL_imagenet256_labeled.npz): mu (F,), sigma (F, F) of Inception's pool features,
mu_s, sigma_s of its spatial ones, arr_0 (M, H, W, 3) uint8 images. Ours adds `kept` features and `provenance`, a text.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar.errors import InputError
from radar.files import replacing
from radar.networks.network import FeatureNetwork
from radar.scoring.statistics import DAMAGED, Looked, Moments, Statistics, measure_statistics

BATCH = 256  # images that are read at once
IMAGES = "arr_0"


def check_reference(path: str) -> None:
    """Raise InputError for a file that holds no moments: before any work."""
    _read(path)


@cache
def _read(path: str) -> dict[str, Any]:
    """Arrays of a file by name, but for the images, of which only the name is given; raises InputError."""
    try:
        with np.load(path) as file:
            arrays: dict[str, Any] = {name: None if name == IMAGES else file[name] for name in file.files}
        for suffix in ("", *(["_s"] if "mu_s" in arrays else [])):
            (width,) = arrays[f"mu{suffix}"].shape
            if arrays[f"sigma{suffix}"].shape != (width, width):
                raise ValueError(f"sigma{suffix} is {arrays[f'sigma{suffix}'].shape}, and mu{suffix} ({width},)")
    except (*DAMAGED, AttributeError) as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise InputError(f"evaluate.reference={path} is no .npz of mu and sigma ({said})") from error
    return arrays


def read_reference(path: str, network: FeatureNetwork) -> tuple[Statistics, str]:
    """Read statistics for a network, and how the reference set is called in a row.

    Of ADM's file they are what it says of them; precision, recall and KID look at its images. Raises InputError for a
    file that is none, is damaged, or is of another network.
    """
    arrays = _read(path)
    moments = Moments.given(*(torch.from_numpy(arrays[name]) for name in ("mu", "sigma")))
    spatial = None
    if "mu_s" in arrays:
        spatial = Moments.given(*(torch.from_numpy(arrays[name]) for name in ("mu_s", "sigma_s")))
    if (width := len(moments.total)) != network.num_features:
        raise InputError(
            f"evaluate.reference={path} is of another network: it has {width} features, and {network.label} "
            f"{network.num_features}"
        )
    origin = json.loads(str(arrays["provenance"])) if "provenance" in arrays else {}
    if origin and origin["network"] != network.title:
        raise InputError(f"evaluate.reference={path} is of another network: {origin['network']}, here {network.title}")
    kept: Tensor | None = None
    if "kept" in arrays:
        kept = torch.from_numpy(arrays["kept"]).double()
    elif IMAGES in arrays:
        count = npz_shape(path, IMAGES)[0]
        kept = measure_statistics(network, _images(path), count).kept
    digest = hashlib.sha256(b"".join(arrays[name].tobytes() for name in ("mu", "sigma"))).hexdigest()[:8]
    named = f"{origin['images']} ({origin['count']})" if origin else Path(path).name
    return Statistics(moments, kept, spatial), f"{named}:{digest}"


def write_reference(
    path: Path, found: Statistics, provenance: dict[str, Any], images: list[Tensor] | None = None
) -> None:
    """Write ADM's layout, with `kept` and `provenance`; with `images` (B, 3, H, W) in parts also arr_0."""
    arrays: dict[str, Any] = {"mu": found.features.mean, "sigma": found.features.covariance}
    if found.spatial is not None:
        arrays |= {"mu_s": found.spatial.mean, "sigma_s": found.spatial.covariance}
    if found.kept is not None:
        arrays["kept"] = found.kept.float()
    if images:
        arrays["arr_0"] = torch.cat(images).permute(0, 2, 3, 1)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            provenance=np.array(json.dumps(provenance)),
            **{name: value.numpy() for name, value in arrays.items()},
        )


def _images(path: str) -> Iterator[Looked]:
    for part in npz_rows(path, IMAGES, BATCH):
        yield torch.from_numpy(part).permute(0, 3, 1, 2), None


def npz_shape(path: str | Path, name: str) -> tuple[int, ...]:
    """Shape of an array of an .npz file, without reading it."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        return _header(file)[0]


def npz_rows(path: str | Path, name: str, rows: int) -> Iterator[NDArray[Any]]:
    """Read an array of an .npz file by so many rows at a time: it may be larger than memory."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        (count, *shape), dtype = _header(file)
        size = int(np.prod(shape)) * dtype.itemsize
        for first in range(0, count, rows):
            here = min(rows, count - first)
            yield np.frombuffer(file.read(here * size), dtype).reshape(here, *shape).copy()


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = read(file)
    if fortran:
        raise ValueError("its array is in Fortran's order")
    return shape, dtype
