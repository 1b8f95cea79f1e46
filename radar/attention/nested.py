"""Variants that encode the known region anew in every step. Legend: N cells, K steps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from radar.attention.slots import Predicate, Side, Slots, class_token, join, queries, starts_of, step_of_rank, tokens
from radar.errors import InputError

Encoding = Callable[[Tensor, Tensor], Tensor]  # (block, group) -> the block whose copy of the group it sees


def _blocks(sizes: Sequence[int], sees: Predicate, latest: Encoding = lambda block, group: block) -> Slots:
    """Build one block per step k: known groups as tokens, to be revised, and the new ring as queries.

    A block holds its own copy of the groups for which `latest` says so, and sees older copies of the others.
    """
    step, parts = step_of_rank(sizes), [class_token()]
    for k in range(len(sizes)):
        known = torch.nonzero((step < k) & (latest(torch.tensor(k), step) == k)).flatten()
        parts.append(tokens(known, step=k, predicts=known, in_pass=k))
        parts.append(queries(torch.nonzero(step == k).flatten(), step=k))
    return join(sizes, parts, sees)


def _sees_nested(asking: Side, seen: Side) -> Tensor:
    return (seen.step == -1) | ((seen.step == asking.step) & (seen.is_token | ~asking.is_token))


def nested(sizes: Sequence[int], rings: int | None = None, every: int = 1) -> Slots:
    """RadAR's nested attention [paper]: the known region is predicted again each step and cannot see the new ring.

    Cheaper ones [ours], exact too since they are trained like that: only the last `rings` rings are encoded and revised
    again, or all of them only in steps that `every` divides, and otherwise the last one; with both, the last `rings` in
    those steps. Older rings are seen as they were encoded last, so that later steps do not see a correction until its
    ring is encoded again. Raises InputError if a number is below 1.
    """
    if every < 1 or (rings is not None and rings < 1):
        raise InputError(f"attention 'nested' with rings={rings}, every={every} is not possible: at least 1 each")

    if rings is None and every == 1:
        return _blocks(sizes, _sees_nested)

    def latest(block: Tensor, group: Tensor) -> Tensor:
        last = block if rings is None else torch.minimum(block, group + rings)
        return torch.maximum(group + 1, last - last % every)

    def sees(asking: Side, seen: Side) -> Tensor:
        older = seen.is_token & (seen.group < asking.step) & (seen.step == latest(asking.step, seen.group))
        return (seen.step == -1) | older | (~asking.is_token & ~seen.is_token & (seen.step == asking.step))

    return _blocks(sizes, sees, latest)


def _sees_full(asking: Side, seen: Side) -> Tensor:
    return (seen.step == -1) | (seen.step == asking.step)


def full(sizes: Sequence[int]) -> Slots:
    """Lay out as `nested`, but let the known region see the new ring's queries too: what the nesting buys [ours]."""
    return _blocks(sizes, _sees_full)


def _sees_nested_memory(asking: Side, seen: Side) -> Tensor:
    return _sees_nested(asking, seen) | (seen.is_token & (seen.step < asking.step))


def nested_memory(sizes: Sequence[int]) -> Slots:
    """Extend `nested`: a step also sees the earlier steps' copies of the known region, from the cache [ours]."""
    return _blocks(sizes, _sees_nested_memory)


def bidirectional(sizes: Sequence[int]) -> Slots:
    """MaskGIT (arXiv 2202.04200): in each step all cells see each other, known ones as tokens, the others as queries.

    Every unknown cell is predicted in every step. The order says which of them are kept, or the sampler does, by
    confidence (`sample.choice_temperature`): then the step vector is an outcome of sampling, with the same group sizes.
    """
    starts, parts = starts_of(sizes), [class_token()]
    for k in range(len(sizes)):
        parts.append(tokens(torch.arange(starts[k]), step=k, in_pass=k))
        parts.append(queries(torch.arange(starts[k], starts[-1]), step=k))
    return join(sizes, parts, _sees_full)
