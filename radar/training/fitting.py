"""Whether slots, order and model fit together."""

from dataclasses import replace

import torch
from torch import Tensor

from radar.attention import NONE, Slots
from radar.config.lookup import takes
from radar.config.options import Config
from radar.decoding.decoding_order import DecodingOrder
from radar.decoding.groups import sizes_text
from radar.decoding.orders import ORDERS
from radar.errors import InputError
from radar.tokenizers.multiscale import Pyramid


def check_directions(slots: Slots, permutation: Tensor, attention: str, width: int) -> None:
    """Refuse cells that are not to the right and below: a slot with two targets does not say which cells it fills.

    Of permutations (B, N); raises InputError.
    """
    positions = torch.stack([permutation // width, permutation % width], -1)
    for targets, distance in ((slots.target, (0, 1)), (slots.second, (1, 0))):
        pairs = (targets != NONE) & (slots.rank != NONE)
        moves = positions[:, targets[pairs]] - positions[:, slots.rank[pairs]]
        if (moves != torch.tensor(distance)).any():
            raise InputError(
                f"attention '{attention}' decodes a cell from those left of it and above: it needs order 'diagonal' "
                "with its own steps, and a grid that is not higher than wide"
            )


def check_rotary(slots: Slots, config: Config, varies: bool) -> None:
    """Refuse slots whose cell to predict is neither their own nor always the same next one: angles do not say it."""
    if slots.elsewhere.any() and (varies or int(slots.step.max()) + 2 < len(slots)):
        raise InputError(
            f"model.positions=rotary does not say which cell a slot of attention '{config.attention}' fills; choose "
            "both or learned"
        )


def check_query_blocks(slots: Slots, config: Config) -> None:
    """Refuse query blocks where tokens predict, or see queries, or take another backend; raises InputError."""
    if slots.blind or slots.predicts[slots.is_token].any() or slots.mask()[slots.is_token][:, ~slots.is_token].any():
        raise InputError(
            f"model.query_share needs an attention whose tokens predict nothing and see no query (plain), not "
            f"'{config.attention}'"
        )
    if config.model.backend not in ("auto", "sdpa"):
        raise InputError(
            f"model.backend={config.model.backend} does not go with model.query_share, whose layers take parts of the "
            "mask; it must be auto or sdpa"
        )


def check_reader(slots: Slots, reader: Pyramid | None, config: Config) -> None:
    """Refuse slots that carry no token without scales that tell them something, and scales without; or in other groups.

    Raises InputError.
    """
    if slots.blind and reader is None:
        raise InputError(
            f"attention '{config.attention}' needs tokenizer.name=multiscale: no slot carries a token, and "
            "nothing tells them what is known"
        )
    if reader is None:
        return
    if not slots.blind:
        raise InputError(f"attention '{config.attention}' is not possible with scales of tokens; choose block_causal")
    groups = slots.in_pass[slots.predicts_new].bincount().tolist()
    if groups != [side**2 for side in reader.sides] or config.order.name != "scales":
        raise InputError(
            f"order '{config.order.name}' in groups of {sizes_text(groups)} is not that of "
            f"tokenizer.sides={reader.sides}; choose scales, without other sides or steps"
        )


def check_row(order: DecodingOrder, reader: Pyramid | None) -> None:
    """Refuse to decode scales in any other sequence than their own: the reader takes ranks for cells; InputError."""
    if reader is not None and (order.varies or not torch.equal(order.permutation, torch.arange(reader.cells))):
        raise InputError(
            f"train.permutations={order.config.train.permutations} is not possible with scales: choose fixed"
        )


def with_sides(config: Config, reader: Pyramid | None) -> Config:
    """Let an order of scales have those of the tokenizer, where it is given no others."""
    if reader is None or config.order.sides is not None or not takes(config.order.name, ORDERS, "sides"):
        return config
    return replace(config, order=replace(config.order, sides=list(reader.sides)))
