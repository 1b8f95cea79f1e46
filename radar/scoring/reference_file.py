"""Files of a reference set's statistics: those of `radar reference`, which say where they come from, and ADM's.

ADM's layout (guided-diffusion's VIRTUAL_imagenet256_labeled.npz): mu (F,), sigma (F, F) of Inception's pool features,
mu_s, sigma_s of its spatial ones, arr_0 (M, H, W, 3) uint8 images. Ours adds `kept` features and `provenance`, a text.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radar.encoders.network import FeatureNetwork
from radar.errors import InputError
from radar.files import DAMAGED, replacing
from radar.scoring.npz import npz_rows, npz_shape, write_rows
from radar.scoring.statistics import Looked, Moments, Statistics, kept_statistics, save_arrays

BATCH = 256  # images that are read at once
IMAGES, ORIGIN = "arr_0", "provenance"
OF_IMAGES = ("kid", "precision_recall")  # metrics that look at single images of the reference


def check_reference(path: str, metrics: Sequence[str]) -> None:
    """Raise InputError for a file that holds no moments, or not what the metrics need: before any work."""
    arrays = _read(path)
    asked = [name for name in metrics if name in OF_IMAGES]
    if asked and not arrays.keys() & {"kept", IMAGES}:
        raise InputError(
            f"evaluate.reference={path} has moments but no images, which evaluate.metrics={asked} look at: leave these "
            "out, or make the file by `radar reference`"
        )
    if "sfid" in metrics and "mu_s" not in arrays:
        raise InputError(f"evaluate.reference={path} has no mu_s and sigma_s, which evaluate.metrics=[sfid] compares")


@cache
def _read(path: str) -> dict[str, Any]:
    """Arrays of a file by name, but for the images, of which only the name is given; raises InputError."""
    if not Path(path).is_file():
        raise InputError(f"evaluate.reference={path} is not a file: the .npz of statistics expected")
    try:
        with np.load(path) as file:
            arrays: dict[str, Any] = {name: None if name == IMAGES else file[name] for name in file.files}
        if ORIGIN in arrays:
            arrays[ORIGIN] = {name: json.loads(str(arrays[ORIGIN]))[name] for name in ("network", "images", "count")}
    except (*DAMAGED, AttributeError, TypeError) as error:
        raise InputError(f"evaluate.reference={path} is no .npz of mu and sigma ({type(error).__name__})") from error
    named = f"evaluate.reference={path} holds"
    for mu, sigma in (("mu", "sigma"), *([("mu_s", "sigma_s")] if "mu_s" in arrays else [])):
        if missing := [name for name in (mu, sigma) if name not in arrays]:
            raise InputError(f"{named} {', '.join(arrays) or 'nothing'}, and no {missing[0]}: mu and sigma expected")
        shapes = arrays[mu].shape, arrays[sigma].shape
        if len(shapes[0]) != 1 or shapes[1] != 2 * shapes[0]:
            raise InputError(f"{named} {mu} of shape {shapes[0]} and {sigma} of {shapes[1]}: (D,) and (D, D) expected")
    return arrays


def read_reference(
    path: str, network: FeatureNetwork, cache: str | None = None, looks: bool = True
) -> tuple[Statistics, str]:
    """Read statistics for a network, and how the reference set is called in a row.

    Of ADM's file they are what it says of them; where it `looks` at images (precision, recall, KID), the network is
    shown those of the file, once for a `cache`. Raises InputError for a file that is none, is damaged, or is of another
    network.
    """
    arrays, named = _read(path), Path(path).name
    moments = Moments.given(*(torch.from_numpy(arrays[name]) for name in ("mu", "sigma")))
    spatial = None
    if "mu_s" in arrays:
        spatial = Moments.given(*(torch.from_numpy(arrays[name]) for name in ("mu_s", "sigma_s")))
    if (width := len(moments.total)) != network.num_features:
        raise InputError(
            f"evaluate.reference={path} is of another network: it has {width} features, and {network.label} "
            f"{network.num_features}"
        )
    if (origin := arrays.get(ORIGIN)) is not None:
        if origin["network"] != network.title:
            other = f"{origin['network']}, here {network.title}"
            raise InputError(f"evaluate.reference={path} is of another network: {other}")
        named = f"{origin['images']} ({origin['count']})"
    digest = hashlib.sha256(b"".join(arrays[name].tobytes() for name in ("mu", "sigma"))).hexdigest()[:8]
    kept: Tensor | None = None
    if "kept" in arrays:
        kept = torch.from_numpy(arrays["kept"]).double()
    elif looks and IMAGES in arrays:
        count = npz_shape(path, IMAGES)[0]
        kept = kept_statistics(network, "reference-file", digest, partial(_images, path), count, cache).kept
    return Statistics(moments, kept, spatial), f"{named}:{digest}"


def write_reference(
    path: Path, found: Statistics, provenance: dict[str, Any], images: Iterable[Tensor] = (), count: int = 0
) -> None:
    """Write ADM's layout, with `kept` and `provenance`; of `count` images, in batches (B, 3, H, W), also arr_0."""
    arrays = {"mu": found.features.mean, "sigma": found.features.covariance}
    if found.spatial is not None:
        arrays |= {"mu_s": found.spatial.mean, "sigma_s": found.spatial.covariance}
    if found.kept is not None:
        arrays["kept"] = found.kept.float()
    named = {ORIGIN: np.array(json.dumps(provenance)), **{name: value.numpy() for name, value in arrays.items()}}
    with replacing(path) as temporary:
        save_arrays(temporary, named)
        if count:
            with zipfile.ZipFile(temporary, "a") as archive:
                write_rows(archive, IMAGES, (part.permute(0, 2, 3, 1).numpy() for part in images), count)


def _images(path: str) -> Iterator[Looked]:
    for part in npz_rows(path, IMAGES, BATCH):
        yield torch.from_numpy(part).permute(0, 3, 1, 2), None
