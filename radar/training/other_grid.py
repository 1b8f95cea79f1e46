"""A trained generator on another grid of cells: larger, for what lies beyond the border, or of another shape.

Positions decide what that is worth: rotary ones go on, learned ones are interpolated. Legend: N cells, D width.
"""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from radar.config.options import Config, OrderConfig
from radar.config.registry import takes
from radar.decoding.orders import ORDERS
from radar.errors import InputError
from radar.training.generator import GeneratorModule

Grid = tuple[int, int]
MOST_CELLS = 64 * 64


def on_sampled_grid(config: Config, trained: GeneratorModule) -> tuple[Config, GeneratorModule]:
    """Options and generator for `sample.grid`, as they are without; raises InputError where that is not possible."""
    settings, old = config.sample, trained.model.grid
    if settings.grid is None or (grid := check_grid(settings.grid)) == old:
        return config, trained
    origin, model = origin_of(old, grid, settings.place), trained.model
    config = replace(config, order=moved(config.order, old, origin))
    try:
        module = GeneratorModule(config, model.vocabulary, model.classes, grid, trained.origin)
    except InputError as error:
        raise InputError(f"sample.grid={settings.grid}: {error}") from error
    weights = trained.state_dict()
    if model.positions is not None:
        weights["model.positions.weight"] = interpolated(model.positions.weight.detach(), old, grid)
    module.load_state_dict(weights)
    scale = max(1.0, grid[0] / old[0], grid[1] / old[1]) if settings.rotary == "ntk" else 1.0
    module.model.angles = module.model.rotary_angles(origin, scale)
    return config, module.eval()


def check_grid(grid: list[int]) -> Grid:
    """Raise InputError for what is no grid, or too large a one."""
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] > MOST_CELLS:
        raise InputError(
            f"sample.grid={grid} is not possible: [rows, columns] of at least 1, {MOST_CELLS} cells at most"
        )
    return grid[0], grid[1]


def origin_of(old: Grid, grid: Grid, place: str) -> Grid:
    """Row and column of the trained grid's first cell in another one.

    >>> origin_of((8, 8), (8, 12), "left"), origin_of((8, 8), (12, 12), "center")
    ((0, 0), (2, 2))
    """
    rows, columns = grid[0] - old[0], grid[1] - old[1]
    row = {"top": 0, "bottom": rows}.get(place, rows // 2)
    return row, {"left": 0, "right": columns}.get(place, columns // 2)


def moved(order: OrderConfig, old: Grid, origin: Grid) -> OrderConfig:
    """Let the rings of an order go on around the cells that they began with."""

    def shift(cell: list[int]) -> list[int]:
        return [cell[0] + origin[0], cell[1] + origin[1]]

    if order.centers is not None:
        return replace(order, centers=[shift(cell) for cell in order.centers])
    if takes(order.name, ORDERS, "center"):
        return replace(order, center=shift(order.center or [old[0] // 2, old[1] // 2]))
    return order


def interpolated(positions: Tensor, old: Grid, grid: Grid) -> Tensor:
    """Embeddings (N, D) of the cells of a grid, from those of the old one, bilinearly."""
    image = positions.T.reshape(1, -1, *old)
    return F.interpolate(image, grid, mode="bilinear", align_corners=True).flatten(2)[0].T.contiguous()


def cropped(images: Tensor, size: Grid, place: str) -> Tensor:
    """The part of images (B, 3, H', W') that the trained grid covers, (B, 3, H, W); smaller ones are kept."""
    found = images.shape[2], images.shape[3]
    if found[0] < size[0] or found[1] < size[1]:
        return images
    row, column = origin_of(size, found, place)
    return images[:, :, row : row + size[0], column : column + size[1]]
