"""The parallel sampler: one forward pass per step, guidance, filters, per-image seeds, correction.

Legend: B images, N cells, S slots, K steps, T targets of one pass, V vocabulary.

Which slots run in which pass, what stays in the cache and who sees whom is all read off the variant's slots and
mask, so every order x variant is sampled by the same loop, with the very mask that it was trained with. Tokens are
held in decoding order (by rank) and put into place at the end.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from radar.attention import NONE, Slots
from radar.config.options import SampleConfig
from radar.kernels.cuda_graphs import recorded, replay
from radar.kernels.linear import fast_products
from radar.model.kv_cache import empty_cache
from radar.model.transformer import Transformer
from radar.sampling.guidance import Progress, guidance
from radar.seeding import Stream, generator

PRODUCTS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


def product_dtype(settings: SampleConfig) -> torch.dtype:
    """Type of the matrix products, and of the cache, of a float32 model."""
    return PRODUCTS[settings.precision]


@dataclass(frozen=True)
class Turn:
    """One forward pass: its slots, those that later passes see first, and their rows of the mask."""

    slots: Slots
    start: int  # slots of earlier passes in the cache; its own are written behind them
    covered: int  # slots that attention goes over: start + its own
    mask: Tensor | None  # (slots, covered); None where every slot sees all of them
    targets: Tensor  # (T,) ranks that it predicts
    revises: Tensor  # (T,) True where the predicted cell is known already
    corrects: bool  # whether it is anywhere
    noise: Tensor  # (T,) which random numbers of an image it uses
    keeps: int  # how many of the targets are written, from the first; the others are candidates for a later pass
    progress: Progress  # how far sampling is


def plan_turns(slots: Slots, revise: bool, device: torch.device | str = "cpu", candidates: bool = False) -> list[Turn]:
    """Cut a variant's slots into forward passes, on `device`; a slot is cached exactly if a later pass sees it.

    Those that no pass sees any more are overwritten, where nothing behind them is still in use.

    Without `revise`, known cells are context only, and nothing is predicted for them; without `candidates`, nothing for
    cells of later steps either. The random numbers of a cell's first drawing are the same with and without.
    """
    mask = slots.mask()
    dropped = (slots.revises & (not revise)) | (slots.waits & (not candidates))
    slots = replace(slots, target=torch.where(dropped, NONE, slots.target))
    drawn = int(torch.cat([slots.rank, slots.target]).max()) + 1
    turns: list[Turn] = []
    cached = torch.empty(0, dtype=torch.long)
    passes, cells, known = int(slots.turn.max()) + 1, drawn, 0
    for turn in range(passes):
        run = torch.nonzero(slots.turn == turn).flatten()
        alive = mask[slots.turn >= turn][:, cached].any(0).nonzero()
        cached = cached[: int(alive.max()) + 1 if len(alive) else 0]
        seen_later = mask[slots.turn > turn][:, run].any(0)
        run = torch.cat([run[seen_later], run[~seen_later]])
        part = slots.take(run)
        targets, source = part.predictions.target, part.predictions.source
        revises, waits = part.revises[source], part.waits[source]
        extra = revises | waits
        noise = torch.where(extra, drawn - 1 + extra.cumsum(0), targets)
        rows = mask[run][:, torch.cat([cached, run])]
        seen = None if rows.all() else rows.to(device)
        keeps, corrects = len(targets) - int(waits.sum()), bool(revises.any())
        after = known + int((~extra).sum())
        tokens = targets.clamp(known, after - 1) / cells
        at = Progress((turn + 1) / passes, known / cells, after / cells, tokens.to(device))
        known = after
        targets, revises, noise = targets.to(device), revises.to(device), noise.to(device)
        covered = rows.shape[1]
        turns.append(Turn(part.to(device), len(cached), covered, seen, targets, revises, corrects, noise, keeps, at))
        cached = torch.cat([cached, run[seen_later]])
        drawn += int(extra.sum())
    return turns


def image_noise(seed: int, images: Sequence[int], count: int, stream: Stream = Stream.SAMPLE) -> Tensor:
    """Uniform numbers (B, count) of the images numbered `images`: row i depends on (stream, seed, i) alone."""
    return torch.stack([torch.rand(count, generator=generator(stream, seed, image)) for image in images])


def filter_probabilities(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Probabilities (..., V) after temperature, top-k, then top-p (the smallest set that reaches the mass)."""
    probabilities = (logits if temperature == 1 else logits / temperature).softmax(-1)
    if not top_k and top_p == 1:
        return probabilities
    ranked, index = probabilities.sort(dim=-1, descending=True)
    if top_k:
        ranked[..., top_k:] = 0
    mass = ranked.sum(-1, keepdim=True)
    ranked = ranked * (ranked.cumsum(-1) - ranked < top_p * mass)
    return torch.zeros_like(ranked).scatter(-1, index, ranked / ranked.sum(-1, keepdim=True))


def draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Invert the distribution function: tokens (...) from probabilities (..., V) and one uniform number each.

    In two levels, first the block of codes, then the code in it: one pass over V instead of a running sum of it. A code
    of probability zero is never drawn.
    """
    blocks = probabilities.unflatten(-1, (-1, _block_width(probabilities.shape[-1])))
    masses = blocks.sum(-1)
    block, rest = _invert(masses, noise * masses.sum(-1))
    inside = blocks.gather(-2, block[..., None, None].expand(*block.shape, 1, blocks.shape[-1]))[..., 0, :]
    return block * blocks.shape[-1] + _invert(inside, rest)[0]  # type: ignore[no-any-return]


def _invert(masses: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Index (...) of the first running sum of masses (..., M) above `level` (...), and what is left of the level."""
    sums = masses.cumsum(-1)  # in float32, as fine as the noise with its 24 bits
    below = torch.nextafter(sums[..., -1], torch.zeros_like(level))
    level = torch.minimum(level, below).clamp(min=0)[..., None]
    index = torch.searchsorted(sums, level, right=True).clamp(max=masses.shape[-1] - 1)  # only for NaN
    return index[..., 0], (level - sums.gather(-1, index) + masses.gather(-1, index))[..., 0]


@functools.cache
def _block_width(vocabulary: int) -> int:
    """Return the divisor of V that is nearest to its root from below."""
    return next(width for width in range(math.isqrt(vocabulary), 0, -1) if vocabulary % width == 0)


@dataclass
class Trace:
    """What every pass left behind, (B, N) in cell order: tokens, and where it wrote or revised (bool)."""

    tokens: list[Tensor] = field(default_factory=list)
    written: list[Tensor] = field(default_factory=list)
    revised: list[Tensor] = field(default_factory=list)


TokenRule = Callable[[Turn, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def choose_tokens(settings: SampleConfig) -> TokenRule:
    """Rule that turns a pass into tokens: (turn, logits (B, T, V), current (B, T), noise (B, T)) -> tokens, changed.

    A known token is drawn again from the corrector where its probability there is below the threshold.
    """

    def rule(turn: Turn, logits: Tensor, current: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        fresh = draw(filter_probabilities(logits, settings.temperature, settings.top_k, settings.top_p), noise)
        if not turn.corrects:
            return fresh, torch.ones_like(fresh, dtype=torch.bool)
        belief = (logits / settings.temperature).softmax(-1).gather(-1, current[..., None])[..., 0]
        changed = ~turn.revises | (belief < settings.correction)
        return torch.where(changed, fresh, current), changed

    return rule


class Choice:
    """MaskGIT (arXiv 2202.04200): of all cells that a pass predicts, those of the most confident tokens come first.

    Confidence is log p of the drawn token plus Gumbel noise, whose scale falls linearly to 0 at the last pass.
    """

    def __init__(self, turns: Sequence[Turn], settings: SampleConfig, noise: Tensor):
        self.settings, self.passes = settings, len(turns)
        self.ends = list(accumulate(len(turn.targets) for turn in turns))
        self.gumbel = -(-noise.clamp(min=2**-25).log()).log()

    def rank(self, number: int, turn: Turn, logits: Tensor, tokens: Tensor) -> Tensor:
        """Indices (B, T) of the predicted cells, the most confident first."""
        assert self.settings.choice_temperature is not None
        belief = (logits / self.settings.temperature).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        scale = self.settings.choice_temperature * (1 - (number + 1) / self.passes)
        own = self.gumbel[:, self.ends[number] - len(turn.targets) : self.ends[number]]
        return (belief + scale * own).argsort(dim=1, descending=True, stable=True)


def sample_tokens(
    model: Transformer,
    turns: Sequence[Turn],
    sequence: Tensor,
    labels: Tensor,
    settings: SampleConfig,
    images: Sequence[int],
    trace: Trace | None = None,
    rule: TokenRule | None = None,
) -> Tensor:
    """Draw tokens (B, N) in cell order; exactly one forward pass per turn.

    Args:
        model: in eval mode.
        turns: of `plan_turns`, on the model's device; the same list for all batches that are to be replayed.
        sequence: (N,) or (B, N) cells in decoding order.
        labels: (B,) classes.
        settings: guidance, filters, correction and seed.
        images: B image numbers; image i depends on (settings.seed, i) and its label alone.
        trace: filled with the state after each pass.
        rule: what to write, by default `choose_tokens(settings)`.
    """
    inputs = sequence, labels, *(noise.to(labels.device) for noise in all_noise(turns, settings, images))
    work = functools.partial(_run, model, turns, settings, rule or choose_tokens(settings), trace)
    if trace is not None or rule is not None:
        return work(*inputs)
    rest = replace(settings, seed=0, images=0, batch_size=0)  # what these change is in the inputs
    return replay(model, (id(turns), repr(rest)), work, *inputs)


def all_noise(turns: Sequence[Turn], settings: SampleConfig, images: Sequence[int]) -> list[Tensor]:
    """Uniform numbers (B, ...) for the tokens, and for their choice where there is one."""
    noise = [image_noise(settings.seed, images, sum(len(turn.noise) for turn in turns))]
    if settings.choice_temperature is not None:
        noise.append(image_noise(settings.seed, images, sum(len(turn.targets) for turn in turns), Stream.CHOICE))
    return noise


def _run(
    model: Transformer,
    turns: Sequence[Turn],
    settings: SampleConfig,
    rule: TokenRule,
    trace: Trace | None,
    sequence: Tensor,
    labels: Tensor,
    noise: Tensor,
    choice_noise: Tensor | None = None,
) -> Tensor:
    """All passes; without a trace nothing waits for the device, so that they can be recorded (radar/kernels)."""
    cells = torch.atleast_2d(sequence).expand(len(labels), -1)  # a view: nothing is copied
    choice = None
    if choice_noise is not None:  # every image finds its own sequence
        choice, sequence = Choice(turns, settings, choice_noise), (cells := cells.clone())
    known = torch.zeros(cells.shape, dtype=torch.long, device=labels.device)
    guide = _Guide(model, turns, labels, settings)
    low = product_dtype(settings) == torch.bfloat16
    # Autocast keeps its bfloat16 weights from pass to pass only outside inference mode.
    with torch.inference_mode(not low), torch.no_grad(), torch.autocast(labels.device.type, torch.bfloat16, low):
        for number, turn in enumerate(turns):
            logits = guide.predict(turn, known, sequence)
            tokens, changed = rule(turn, logits, known[:, turn.targets], noise[:, turn.noise])
            if choice is not None:
                first = choice.rank(number, turn, logits, tokens)
                tokens = tokens.gather(1, first)
                cells[:, turn.targets] = cells[:, turn.targets].gather(1, first)
            known[:, turn.targets[: turn.keeps]] = tokens[:, : turn.keeps]
            if trace is not None:
                _record(trace, turn, known, cells, changed)
    return torch.empty_like(known).scatter_(1, cells, known)


@contextmanager
def ready_to_sample(model: Transformer, settings: SampleConfig) -> Iterator[None]:
    """Make many batches faster: weights laid out for it (radar/kernels), and on a GPU recorded passes (radar/kernels).

    The weights must not change in the meantime.
    """
    with fast_products(model, product_dtype(settings)), recorded(model):
        yield


class _Guide:
    """Runs a pass with or without guidance; keeps the cache. Without guidance nothing is computed twice."""

    def __init__(self, model: Transformer, turns: Sequence[Turn], labels: Tensor, settings: SampleConfig) -> None:
        self.schedule = guidance(settings.guidance_schedule, settings.guidance_power)
        self.settings, self.doubled = settings, settings.guidance != 1
        self.labels = torch.cat([labels, torch.full_like(labels, model.classes)]) if self.doubled else labels
        room = max(turn.covered for turn in turns)
        self.model = model
        shape, device, low = model.shape, model.query.device, product_dtype(settings) == torch.bfloat16
        dtype = torch.bfloat16 if low else model.query.dtype
        self.cache = empty_cache(
            model.cache_layers, len(self.labels), shape.heads, room, shape.dim // shape.heads, device, dtype
        )

    def predict(self, turn: Turn, known: Tensor, sequence: Tensor) -> Tensor:
        """Guided logits (B, T, V) of one pass."""
        content = known[:, turn.slots.rank.clamp(min=0)]
        if self.doubled:
            content = content.repeat(2, 1)
            sequence = sequence.repeat(2, 1) if sequence.ndim == 2 else sequence
        self.cache.start.fill_(turn.start)
        logits = self.model(turn.slots, content, self.labels, sequence, turn.mask, self.cache).float()
        if not self.doubled:
            return logits  # type: ignore[no-any-return]
        conditional, unconditional = logits.chunk(2)
        scale = self.schedule(self.settings.guidance, turn.progress)
        scale = scale[:, None] if isinstance(scale, Tensor) else scale
        return unconditional + scale * (conditional - unconditional)  # type: ignore[no-any-return]


def _record(trace: Trace, turn: Turn, known: Tensor, cells: Tensor, changed: Tensor) -> None:
    marks = torch.zeros(2, *known.shape, dtype=torch.bool, device=known.device)
    written, revised = ((changed & kind)[:, : turn.keeps] for kind in (~turn.revises, turn.revises))
    marks[0][:, turn.targets[: turn.keeps]] = written
    marks[1][:, turn.targets[: turn.keeps]] = revised
    for state, history in ((known, trace.tokens), (marks[0], trace.written), (marks[1], trace.revised)):
        history.append(torch.empty_like(state).scatter_(1, cells, state).cpu())
