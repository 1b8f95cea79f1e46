"""Arrays of .npz files that may be larger than memory, read and written by rows."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def write_rows(archive: zipfile.ZipFile, name: str, parts: Iterator[NDArray[Any]], count: int) -> None:
    """Write an array of `count` rows that comes in parts."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        for number, part in enumerate(parts):
            if number == 0:
                header = {"descr": part.dtype.str, "fortran_order": False, "shape": (count, *part.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(part).tobytes())
