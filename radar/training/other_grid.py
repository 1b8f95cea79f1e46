"""A trained generator on another grid of cells: larger, for what lies beyond the border, or of another shape.

Positions decide what that is worth: rotary ones go on, learned ones are replicated or interpolated.
Legend: N cells, D width.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from radar.attention import Slots
from radar.config.lookup import choose, takes
from radar.config.options import Config, OrderConfig
from radar.decoding.orders import ORDERS
from radar.decoding.rings import quarter_centers
from radar.errors import InputError
from radar.training.generative import GenerativeModule
from radar.training.generator import GeneratorModule

Grid = tuple[int, int]
MOST_CELLS = 64 * 64


def on_sampled_grid(config: Config, trained: GenerativeModule, planned: bool = False) -> GenerativeModule:
    """Give the generator for `sample.grid`, or as it is trained without; raises InputError where that is not possible.

    If only `planned`, or of a planned one, its weights hold nothing.
    """
    settings, old = config.sample, trained.grid
    if settings.grid is None and settings.place != "center":
        raise InputError(f"sample.place={settings.place} has no effect without sample.grid")
    if settings.grid is None or (grid := check_grid(settings.grid)) == old:
        return trained
    if not isinstance(trained, GeneratorModule) or trained.model.reader is not None:
        raise InputError(
            f"sample.grid={settings.grid} is not possible: only an autoregressive generator of tokens that are one "
            "place of the image takes another"
        )
    model = trained.model
    origin, planned = origin_of(old, grid, settings.place), planned or model.query.is_meta
    move = partial(moved, old=old, origin=origin)
    config = replace(config, order=move(config.order))
    try:
        module = GeneratorModule(config, model.vocabulary, model.classes, grid, trained.origin, planned=planned)
        module.order.adjust = move
        module.sampled_slots(settings)
        check_rotary(module.slots, module)
    except InputError as error:
        raise InputError(f"sample.grid={settings.grid}: {error}") from error
    if planned:
        return module
    weights = trained.state_dict()
    if model.positions is not None:
        further = choose("learned positions", settings.learned, LEARNED)
        weights["model.positions.weight"] = further(model.positions.weight.detach(), old, grid, origin)
    module.load_state_dict(weights)
    slower = max(1.0, grid[0] / old[0]), max(1.0, grid[1] / old[1])
    module.model.angles = module.model.rotary_angles(origin, slower if settings.rotary == "ntk" else (1.0, 1.0))
    return module.eval()


def check_scored(config: Config, trained: Grid) -> None:
    """Raise InputError for a grid whose samples do not cover the images that they would be compared with."""
    if config.sample.grid is not None and any(
        a < b for a, b in zip(check_grid(config.sample.grid), trained, strict=True)
    ):
        raise InputError(
            f"sample.grid={config.sample.grid} is smaller than the {trained[0]}x{trained[1]} cells of the images: "
            "there is nothing to score"
        )


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

    if takes(order.name, ORDERS, "centers"):
        centers = order.centers or [[*cell] for cell in quarter_centers(*old)]
        return replace(order, centers=[shift(cell) for cell in centers])
    if takes(order.name, ORDERS, "center"):
        return replace(order, center=shift(order.center or [old[0] // 2, old[1] // 2]))
    return order


def interpolated(positions: Tensor, old: Grid, grid: Grid, origin: Grid) -> Tensor:
    """Embeddings (N, D) of the cells of a grid: those of the old one, stretched over it bilinearly."""
    image = positions.T.reshape(1, -1, *old)
    return F.interpolate(image, grid, mode="bilinear", align_corners=True).flatten(2)[0].T.contiguous()


def replicated(positions: Tensor, old: Grid, grid: Grid, origin: Grid) -> Tensor:
    """Embeddings (N, D) of the cells of a grid: the old ones where they were, beyond them those of the border."""
    rows, columns = (
        (torch.arange(count) - first).clamp(0, side - 1) for count, first, side in zip(grid, origin, old, strict=True)
    )
    return positions.view(*old, -1)[rows[:, None], columns].flatten(0, 1)


LEARNED: dict[str, Callable[[Tensor, Grid, Grid, Grid], Tensor]] = {
    "replicate": replicated,
    "interpolate": interpolated,
}


def check_rotary(slots: Slots, module: GeneratorModule) -> None:
    """Refuse slots that predict another cell than their own where angles alone say which: raises InputError.

    On the grid and in the order that a model was trained in, it can know the next cell by heart.
    """
    if not module.model.known_by.learned and slots.elsewhere.any():
        raise InputError(
            f"with model.positions=rotary, attention '{module.config.attention}' does not know which cell follows "
            "another than in training"
        )


def cropped(images: Tensor, size: Grid, place: str) -> Tensor:
    """The part of images (B, 3, H', W') that the trained grid covers, (B, 3, H, W)."""
    found = images.shape[2], images.shape[3]
    row, column = origin_of(size, found, place)
    return images[:, :, row : row + size[0], column : column + size[1]]
