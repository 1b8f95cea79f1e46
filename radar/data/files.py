"""Image files below a folder: listed, read and named by what they hold, each once.

What was found out about a file is remembered by its name, size and times of change.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from radar.errors import InputError
from radar.files import kept_where_possible, replacing
from radar.progress import Bar

FORMATS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0)}  # under what is transparent
NAMED = 10  # files that a message lists


def suffixes() -> set[str]:
    """Endings of the image files that can be read here: AVIF depends on how Pillow was built."""
    return FORMATS & Image.registered_extensions().keys()


@cache
def tell(message: str) -> None:
    """Print a line on stderr, once in a process."""
    print(f"radar: {message}", file=sys.stderr)


class Listed(NamedTuple):
    """A folder: its path, where it really lies, its image files, and how many others it has by their endings."""

    path: Path
    real: str
    images: list[Path]
    left_out: Counter[str]


def list_images(classes: Sequence[Path], base: Path) -> dict[Path, list[Path]]:
    """List the image files below each of the folders of classes, sorted, several folders at once.

    Linked folders are followed once, so that no image has two labels; says what is left out.
    """
    seen = {os.path.realpath(path) for path in (base, *classes)}
    with ThreadPoolExecutor() as pool:
        each = Bar(pool.map(partial(_walk, known=frozenset(seen)), classes), "list images", len(classes))
        walks = dict(zip(classes, each, strict=True))
    found: dict[Path, list[Path]] = {}
    for path, folders in walks.items():
        skipped, left_out = list[Path](), Counter[str]()
        found[path] = []
        for folder in folders:
            if any(folder.path.is_relative_to(other) for other in skipped):
                continue
            if folder.path != path and folder.real in seen:
                tell(f"{folder.path} leads to a folder that is read already; it is left out")
                skipped.append(folder.path)
                continue
            seen.add(folder.real)
            found[path] += folder.images
            left_out += folder.left_out
        found[path].sort()
        if left_out:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
            tell(f"{path}: left out what is no image or cannot be read here ({kinds})")
    return found


def _walk(base: Path, known: frozenset[str]) -> list[Listed]:
    """Folders below one, itself first; those that are known, or were met before, without what is in them."""
    found, seen = [], set(known)
    for folder, inner, names in os.walk(base, followlinks=True):
        inner[:] = [name for name in sorted(inner) if not name.startswith(".")]
        real = os.path.realpath(folder)
        listed = Listed(Path(folder), real, [], Counter())
        found.append(listed)
        if folder != str(base) and real in seen:
            inner.clear()
            continue
        seen.add(real)
        for name in names:
            path = Path(folder) / name
            if path.suffix.lower() in suffixes():
                listed.images.append(path)
            elif not name.startswith("."):
                listed.left_out[path.suffix.lower() or "no ending"] += 1
    return found


def open_image(file: Path | BytesIO, background: str) -> Image.Image:
    """Read an image (of an animation the first) upright, as RGB, on a background where it is transparent.

    Greys of 16 bits are scaled, which Pillow by itself would clip to white.
    """
    with Image.open(file) as source:
        image = ImageOps.exif_transpose(source)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            under = Image.new("RGBA", image.size, (*BACKGROUNDS[background], 255))
            image = Image.alpha_composite(under, image)
        return image.convert("RGB")


def examine(path: Path) -> tuple[str, str | None]:
    """Name what a file holds by hex digits, and say why it cannot be read, or None."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", (error.strerror or type(error).__name__).lower()
    digest = hashlib.sha256(data).hexdigest()[:16]
    try:
        open_image(BytesIO(data), "white")
    except Image.DecompressionBombError:
        return digest, f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels"
    except UnidentifiedImageError:
        return digest, "not an image"
    except MemoryError:
        raise
    except Exception as error:  # decoders of damaged files raise many kinds
        return digest, str(error).splitlines()[0].lower() if str(error) else type(error).__name__
    return digest, None


def examine_all(paths: Iterable[Path], base: Path, memory: Path) -> dict[Path, tuple[str, str | None]]:
    """Examine files below `base`, in parallel, but for those that the file `memory` knows unchanged."""
    try:
        known: dict[str, Any] = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    names = {path: str(path.relative_to(base)) for path in paths}
    with ThreadPoolExecutor() as pool:  # where a disk is far away, each of a million takes a while
        states = dict(zip(names, pool.map(_state, names), strict=True))
    same = [path for path, name in names.items() if name in known and known[name]["state"] == states[path]]
    found = {path: (known[names[path]]["digest"], known[names[path]]["reason"]) for path in same}
    new = [path for path in names if path not in found]
    with ThreadPoolExecutor() as pool:
        each = Bar(pool.map(examine, new), "read images", len(new))
        found |= dict(zip(new, each, strict=True))
    if new:  # without what could not be read just now, which has no digest
        kept = {names[p]: {"state": states[p], "digest": d, "reason": reason} for p, (d, reason) in found.items() if d}
        with kept_where_possible(), replacing(memory) as temporary:
            temporary.write_text(json.dumps(kept))
    return {path: found[path] for path in names}


def _state(path: Path) -> list[object]:
    try:
        state = path.stat()
    except OSError:  # a dead link
        return [None, None, None]
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def readable(found: Mapping[Path, tuple[str, str | None]], base: Path, skip: bool) -> list[Path]:
    """Files that can be read; raises InputError if some cannot and `skip` is off, or none can."""
    bad = {str(path.relative_to(base)): reason for path, (_, reason) in found.items() if reason is not None}
    if bad:
        named = ", ".join(f"{name} ({reason})" for name, reason in sorted(bad.items())[:NAMED])
        named += f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        if not skip:
            raise InputError(
                f"{len(bad)} unreadable images in {base}: {named}; remove them or set data.skip_unreadable=true"
            )
        tell(f"{base}: left out what cannot be read: {named}")
    good = [path for path, (_, reason) in found.items() if reason is None]
    if not good:
        raise InputError(f"data.root='{base}' holds no readable image")
    return good
