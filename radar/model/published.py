"""What tensors a published file must hold."""

from collections.abc import Mapping

from torch import Tensor

from radar.errors import InputError


def matrix(state: Mapping[str, Tensor], name: str, what: str) -> tuple[int, int]:
    """Shape of a matrix by which `what` is known; raises InputError where there is none."""
    if name not in state or state[name].ndim != 2:
        raise InputError(f"this is no {what}: it holds no matrix {name}")
    rows, columns = state[name].shape
    return rows, columns


def layers_of(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers there are whose tensors are called `prefix`, a number, a dot and more."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def check_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError where a tensor is missing, unknown or of another shape."""
    for name, shape in shapes.items():
        if name not in state:
            raise InputError(f"tensor {name} {shape} is missing")
        if tuple(state[name].shape) != shape:
            raise InputError(f"tensor {name} has the shape {tuple(state[name].shape)}, not {shape}")
    if unknown := sorted(set(state) - set(shapes)):
        raise InputError(
            f"tensor {unknown[0]} is unknown ({len(unknown)} such); known: {', '.join(list(shapes)[:5])}, ..."
        )
