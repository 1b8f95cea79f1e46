"""The parallel sampler: one forward pass per step, guidance, filters, per-image seeds, correction.

Legend: B images, N cells, S slots, K steps, T targets of one pass, V vocabulary.
Tokens are held in decoding order (by rank) and put into cell order at the end.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from radar.config.sampling import SampleConfig
from radar.kernels.cuda_graphs import recorded, replay
from radar.kernels.linear import fast_products
from radar.sampling.decoder import Decoder, hints_reader, with_cache
from radar.sampling.draw import draw, filter_probabilities, image_noise
from radar.sampling.guidance import guidance
from radar.sampling.passes import Pass
from radar.seeding import Stream

PRODUCTS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


def product_dtype(settings: SampleConfig) -> torch.dtype:
    """Type of the matrix products, and of the cache, of a float32 model."""
    return PRODUCTS[settings.precision]


@dataclass
class Trace:
    """What passes left behind, (B, N) in cell order: tokens, and where they wrote or revised (bool); numbers from 1."""

    tokens: list[Tensor] = field(default_factory=list)
    written: list[Tensor] = field(default_factory=list)
    revised: list[Tensor] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


TokenRule = Callable[[Pass, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def choose_tokens(settings: SampleConfig) -> TokenRule:
    """Rule that turns a pass into tokens: (pass, logits (B, T, V), current (B, T), noise (B, T)) -> tokens, changed.

    A known token is drawn again from the corrector where its probability there is below the threshold.
    """

    def rule(step: Pass, logits: Tensor, current: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        fresh = draw(filter_probabilities(logits, settings.temperature, settings.top_k, settings.top_p), noise)
        if not step.corrects:
            return fresh, torch.ones_like(fresh, dtype=torch.bool)
        belief = (logits / settings.temperature).softmax(-1).gather(-1, current[..., None])[..., 0]
        changed = ~step.revises | (belief < settings.correction)
        return torch.where(changed, fresh, current), changed

    return rule


class Choice:
    """MaskGIT (arXiv 2202.04200): of all cells that a pass predicts, those of the most confident tokens come first.

    Confidence is log p of the drawn token plus Gumbel noise, whose scale falls linearly to 0 at the last pass.
    """

    def __init__(self, passes: Sequence[Pass], settings: SampleConfig, noise: Tensor):
        self.settings, self.count = settings, len(passes)
        self.ends = list(accumulate(len(step.targets) for step in passes))
        self.gumbel = -(-noise.clamp(min=2**-25).log()).log()

    def rank(self, k: int, step: Pass, logits: Tensor, tokens: Tensor) -> Tensor:
        """Indices (B, T) of the predicted cells of pass k, the most confident first."""
        assert self.settings.choice_temperature is not None
        belief = (logits / self.settings.temperature).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        scale = self.settings.choice_temperature * (1 - (k + 1) / self.count)
        own = self.gumbel[:, self.ends[k] - len(step.targets) : self.ends[k]]
        return (belief + scale * own).argsort(dim=1, descending=True, stable=True)


def sample_tokens(
    model: Decoder,
    passes: Sequence[Pass],
    permutation: Tensor,
    labels: Tensor,
    settings: SampleConfig,
    images: Sequence[int],
    trace: Trace | None = None,
    rule: TokenRule | None = None,
    given: Tensor | None = None,
) -> Tensor:
    """Draw tokens (B, N) in cell order; exactly one forward pass per entry of `passes`.

    Args:
        model: in eval mode; ours, or a foreign one.
        passes: of `plan_passes`, on the model's device; the same list for all batches that are to be replayed.
        permutation: (N,) or (B, N) cells in decoding order.
        labels: (B,) classes.
        settings: guidance, filters, correction and seed.
        images: B image numbers; image i depends on (settings.seed, i) and its label alone.
        trace: filled with the state after each pass.
        rule: what to write, by default `choose_tokens(settings)`.
        given: (B, G) tokens of the first ranks, where `passes` ask for the others alone (`Slots.given`).
    """
    given = labels.new_empty(len(labels), 0) if given is None else given
    noise = (numbers.to(labels.device) for numbers in all_noise(passes, settings, images, given.shape[1]))
    inputs = permutation, labels, given, *noise
    work = functools.partial(_run, model, passes, settings, rule or choose_tokens(settings), trace)
    if trace is not None or rule is not None:
        return work(*inputs)
    rest = replace(settings, seed=0, images=0, batch_size=0)  # what these change is in the inputs
    return replay(model, (id(passes), repr(rest)), work, *inputs)


def all_noise(passes: Sequence[Pass], settings: SampleConfig, images: Sequence[int], given: int = 0) -> list[Tensor]:
    """Uniform numbers (B, ...) for the tokens, also `given` ones, and for their choice where there is one."""
    noise = [image_noise(settings.seed, images, given + sum(len(step.noise) for step in passes))]
    if settings.choice_temperature is not None:
        noise.append(image_noise(settings.seed, images, sum(len(step.targets) for step in passes), Stream.CHOICE))
    return noise


def _run(
    model: Decoder,
    passes: Sequence[Pass],
    settings: SampleConfig,
    rule: TokenRule,
    trace: Trace | None,
    permutation: Tensor,
    labels: Tensor,
    given: Tensor,
    noise: Tensor,
    choice_noise: Tensor | None = None,
) -> Tensor:
    """All passes; without a trace nothing waits for the device, so that they can be recorded (radar/kernels)."""
    cells = torch.atleast_2d(permutation).expand(len(labels), -1)  # a view: nothing is copied
    choice = None
    if choice_noise is not None:  # every image finds its own permutation
        choice, permutation = Choice(passes, settings, choice_noise), (cells := cells.clone())
    x = torch.zeros(cells.shape, dtype=torch.long, device=labels.device)  # tokens by rank
    x[:, : given.shape[1]] = given
    guide = _Guide(model, passes, labels, settings)
    with _products_in(product_dtype(settings), labels.device):
        for k, step in enumerate(passes):
            logits = guide.predict(step, x, permutation)
            tokens, changed = rule(step, logits, x[:, step.targets], noise[:, step.noise])
            if choice is not None:
                first = choice.rank(k, step, logits, tokens)
                tokens = tokens.gather(1, first)
                cells[:, step.targets] = cells[:, step.targets].gather(1, first)
            x[:, step.targets[: step.num_commit]] = tokens[:, : step.num_commit]
            if trace is not None:
                _record(trace, step, x, cells, changed)
    return torch.empty_like(x).scatter_(1, cells, x)


@contextmanager
def _products_in(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    low = dtype == torch.bfloat16
    # Autocast keeps its bfloat16 weights from pass to pass only outside inference mode.
    with torch.inference_mode(not low), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, low):
        yield


@contextmanager
def ready_to_sample(model: nn.Module, settings: SampleConfig) -> Iterator[None]:
    """Make many batches faster: weights laid out for it, and on a GPU recorded passes (radar/kernels).

    The weights must not change in the meantime.
    """
    with fast_products(model, product_dtype(settings)), recorded(model):
        yield


class _Guide:
    """Runs a pass with or without guidance; keeps the cache. Without guidance nothing is computed twice."""

    def __init__(self, model: Decoder, passes: Sequence[Pass], labels: Tensor, settings: SampleConfig) -> None:
        self.schedule = guidance(settings.guidance_schedule, settings.guidance_power)
        self.settings, self.doubled = settings, settings.guidance != 1
        self.labels = torch.cat([labels, torch.full_like(labels, model.classes)]) if self.doubled else labels
        room = max((step.covered for step in passes), default=0)
        self.model, self.hints_of = with_cache(model), hints_reader(model)
        low = product_dtype(settings) == torch.bfloat16
        self.cache = self.model.empty_cache(len(self.labels), room, torch.bfloat16 if low else None)

    def predict(self, step: Pass, x: Tensor, permutation: Tensor) -> Tensor:
        """Guided logits (B, T, V) of one pass, given the tokens x (B, N) by rank."""
        tokens, hints = x[:, step.slots.rank.clamp(min=0)], self.hints_of(step.slots, x)
        if self.doubled:
            tokens, hints = tokens.repeat(2, 1), None if hints is None else hints.repeat(2, 1, 1)
            permutation = permutation.repeat(2, 1) if permutation.ndim == 2 else permutation
        self.cache.rewind(step.start)
        told = {} if hints is None else {"hints": hints}
        logits = self.model(step.slots, tokens, self.labels, permutation, step.mask, self.cache, **told).float()
        if not self.doubled:
            return logits  # type: ignore[no-any-return]
        conditional, unconditional = logits.chunk(2)
        scale = self.schedule(self.settings.guidance, step.progress)
        scale = scale[:, None] if isinstance(scale, Tensor) else scale
        return unconditional + scale * (conditional - unconditional)  # type: ignore[no-any-return]


def _record(trace: Trace, step: Pass, x: Tensor, cells: Tensor, changed: Tensor) -> None:
    marks = torch.zeros(2, *x.shape, dtype=torch.bool, device=x.device)
    written, revised = ((changed & kind)[:, : step.num_commit] for kind in (~step.revises, step.revises))
    marks[0][:, step.targets[: step.num_commit]] = written
    marks[1][:, step.targets[: step.num_commit]] = revised
    for state, history in ((x, trace.tokens), (marks[0], trace.written), (marks[1], trace.revised)):
        history.append(torch.empty_like(state).scatter_(1, cells, state).cpu())
    trace.numbers.append(len(trace.numbers) + 1)
