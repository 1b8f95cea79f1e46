"""What can be configured: plain dataclasses, and the rules that no single field shows.

A field that is None means "not given": the variant's own default holds. Options that only some variants take (say
`order.metric`) are passed on by `variants.call`, which refuses those that the chosen variant does not take.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radar.config.registry import choose
from radar.errors import InputError

PRECISIONS = ("32-true", "bf16-mixed")  # float16 would need a loss scaler, bf16-true would round the rotary table
DEVICES = ("auto", "cpu", "cuda")


@dataclass
class OrderConfig:
    """In which order the cells are decoded (radar/decoding/orders.py)."""

    name: str = "radial"
    steps: int | None = None  # exactly this many groups
    schedule: str | None = None  # group sizes: constant, linear, cosine, arccos
    sizes: list[int] | None = None  # group sizes, one by one, in place of steps and schedule
    sizes_of: str | None = None  # the natural group sizes of another order: name[:option=value...]
    metric: str | None = None  # euclidean, chebyshev, manhattan
    rounding: str | None = None  # ceil, round, floor
    center: list[int] | None = None  # [row, column] of the start cell (radial)
    centers: list[list[int]] | None = None  # start cells (multi_center)
    regions: int | None = None  # side by side, decoded in parallel (regions): a square number
    length: float | None = None  # of the field that the order is made for, in cells (optimised)
    covariance: str | None = None  # file of the field instead, written by `radar gap --save` (optimised)
    nearness: float | None = None  # weight of being near to the context (optimised)
    seed: int | None = None  # which random order, where the list is cut (halton), or how ties are broken (lpd)
    path: str | None = None  # .npy file of steps, (N,) or one order per image, (M, N) (file)


@dataclass
class DataConfig:
    """Which images (radar/data)."""

    name: str = "digits"
    root: str | None = None  # folder: one sub-folder per class
    size: int | None = None  # folder: pixels per side after the crop
    images: int | None = None  # shapes: number of training images
    held_out: float | None = None  # digits, folder: share of each class that is never trained on
    skip_unreadable: bool | None = None  # folder: leave out unreadable images instead of stopping
    background: str | None = None  # folder: white (default) or black, under transparent pixels
    augment: str = "none"  # variants of training images: none, flip, tencrop (radar/data/augment.py)
    seed: int | None = None  # shapes: the stream; digits, folder: the split
    cache: str = "runs/cache"  # where encoded tokens and feature networks are kept
    workers: int = 0  # processes that load training batches


@dataclass
class TokenizerConfig:
    """Image <-> tokens (radar/tokenizers)."""

    name: str = "levels"
    levels: int | None = None  # levels: grey levels
    codebook: int | None = None  # vq: number of codes
    fsq_levels: list[int] | None = None  # fsq: levels of each dimension; their product is the number of codes
    width: int | None = None  # vq, fsq: channels of the convolutions
    downsample: int | None = None  # vq, fsq: pixels per cell and side, a power of two
    checkpoint: str | None = None  # vq, fsq: trained by `radar tokenizer`


@dataclass
class ReviseConfig:
    """How much of the known region a step encodes and revises again (attention nested, radar/attention)."""

    rings: int | None = None  # only the last rings; by default all
    every: int | None = None  # all only in every n-th step, otherwise the last ring; by default in each


@dataclass
class ModelConfig:
    """The transformer (radar/model/transformer.py); dim, layers and heads override the preset."""

    preset: str = "tiny"
    dim: int | None = None
    layers: int | None = None
    heads: int | None = None
    dropout: float = 0.0
    label_dropout: float = 0.1
    query_share: float = 0.0  # of the layers, the last, run on queries alone, over keys and values made once (ARPG)
    qk_norm: bool = True
    class_position: bool = True  # False: no queries and keys of the class token (LlamaGen's published weights)
    backend: str = "auto"  # attention in packed training: sdpa, flex, or auto (flex on CUDA, sdpa elsewhere)
    checkpoint_activations: bool = False  # recompute in backward: less memory, about a third more time
    compile: bool = False  # fuse what is not a matrix product (torch.compile): first steps take seconds longer


@dataclass
class TrainConfig:
    """How it is trained (radar/training). Images seen = steps * batch_size * accumulate."""

    max_steps: int = 1000  # optimizer steps
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 2e-3
    warmup: int | None = None  # steps of linear warm-up, then cosine to zero; by default 50, at most a tenth of all
    weight_decay: float = 0.05
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.995  # decay of the generator's weight average; 0 turns it off
    layout: str = "auto"  # packed: all steps in one sequence; sampled: some per iteration; auto: see radar/training
    layout_steps: int = 3  # random steps per iteration of the sampled layout
    permutations: str = "fixed"  # of the training images: fixed, reseeded, random, annealed (radar/decoding)
    corruption: str = "uniform"  # what replaces known tokens in nested and full
    corruption_rate: float = 0.3  # each image and step draws its rate from 0 to this
    correction_weight: float = 1.0  # weight of the correction loss
    precision: str = "32-true"
    device: str = "auto"
    log_every: int = 20
    val_every: int | None = None  # by default a tenth of the steps
    checkpoint_every: int = 200

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up."""
        return min(50, self.max_steps // 10) if self.warmup is None else self.warmup

    @property
    def validation_steps(self) -> int:
        """Optimizer steps between two validations."""
        return min(self.max_steps, max(1, self.max_steps // 10) if self.val_every is None else self.val_every)


@dataclass
class SampleConfig:
    """How images are drawn (radar/sampling/sampler.py)."""

    images: int = 100
    batch_size: int = 256
    guidance: float = 1.0  # s in u + s * (c - u)
    guidance_schedule: str = "constant"  # or linear, known_before, known_after, per_token, power_cosine: how s runs
    guidance_power: float | None = None  # p of the schedule power_cosine, by default 1
    temperature: float = 1.0
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0
    correction: float = 0.0  # known tokens less likely than this are drawn again; 0 turns it off
    order: str | None = None  # another order, in sampling only: name[:option=value...]; needs train.permutations
    order_per_image: bool = (
        False  # draw the order anew for each image, by (sample.seed, image); needs train.permutations
    )
    steps: int | None = None  # cut the decoding sequence into so many groups, in sampling only; by default as trained
    schedule: str | None = None  # their sizes (see order.schedule), in sampling only
    choice_temperature: float | None = None  # write the most confident cells first, with so much Gumbel noise (MaskGIT)
    revise_rings: int | None = None  # as revise.rings, but in sampling only; by default as trained
    revise_every: int | None = None  # as revise.every, but in sampling only
    precision: str = "32-true"  # bf16-mixed: matrix products and cache in bfloat16
    seed: int = 0


@dataclass
class EvaluateConfig:
    """What is measured (radar/scoring/metrics.py)."""

    images: int = 1000  # samples that are scored
    labels: str = "balanced"  # classes of the samples: balanced, or as_data: in the shares of the training images
    features: str = "cnn"  # feature network: cnn (own classifier of the data set) or inception (extra `fid`)
    metrics: list[str] = field(
        default_factory=lambda: ["fid", "kid", "precision_recall", "accuracy", "duplicates", "validity"]
    )
    timing_batch: int = 64
    timing_repeats: int = 5


@dataclass
class Config:
    """Everything that defines one run."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    attention: str = "nested"
    revise: ReviseConfig = field(default_factory=ReviseConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    init: str | None = None  # checkpoint of a generator to begin with, whose `model` options then hold
    seed: int = 0
    run: str = "runs/default"  # folder of logs and checkpoints

    def __post_init__(self) -> None:
        """Check what no single field shows; raises InputError."""
        _expand_paths(self)
        t, s, m, e = self.train, self.sample, self.model, self.evaluate
        for name, value in {
            "train.max_steps": t.max_steps,
            "train.batch_size": t.batch_size,
            "train.accumulate": t.accumulate,
            "train.layout_steps": t.layout_steps,
            "train.log_every": t.log_every,
            "train.val_every": 1 if t.val_every is None else t.val_every,
            "train.checkpoint_every": t.checkpoint_every,
            "sample.images": s.images,
            "sample.steps": 1 if s.steps is None else s.steps,
            "sample.batch_size": s.batch_size,
            "evaluate.timing_batch": e.timing_batch,
            "evaluate.timing_repeats": e.timing_repeats,
        }.items():
            _require(value >= 1, name, value, "at least 1")
        for name, rate in {
            "model.dropout": m.dropout,
            "model.label_dropout": m.label_dropout,
            "model.query_share": m.query_share,
            "train.ema": t.ema,
            "train.corruption_rate": t.corruption_rate,
            "sample.correction": s.correction,
            "data.held_out": self.data.held_out or 0.0,
        }.items():
            _require(0 <= rate < 1, name, rate, "at least 0 and below 1")
        for name, value in {"seed": self.seed, "order.seed": self.order.seed or 0, "sample.seed": s.seed}.items():
            _require(0 <= value < 2**32, name, value, "0..4294967295")
        _require(
            s.guidance == 1 or m.label_dropout > 0,
            "sample.guidance", s.guidance, "1 where model.label_dropout=0 (no image is trained without its label)",
        )  # fmt: skip
        for name, value in {
            "data.seed": self.data.seed or 0,
            "data.workers": self.data.workers,
            "train.warmup": t.warmup or 0,
        }.items():
            _require(value >= 0, name, value, "at least 0")
        for name, count in _numbers(self, int):
            _require(abs(count) < 2**32, name, count, "at most 4294967295")
        _require(bool(self.run), "run", repr(self.run), "the name of a folder")
        for name, number in _numbers(self, float):
            _require(math.isfinite(number), name, number, "a finite number")
        _require(t.weight_decay >= 0, "train.weight_decay", t.weight_decay, "at least 0")
        _require(self.data.size is None or self.data.size >= 1, "data.size", self.data.size, "at least 1")
        _require(self.data.images is None or self.data.images >= 1, "data.images", self.data.images, "at least 1")
        choose("precision", t.precision, dict.fromkeys(PRECISIONS))
        choose("precision", s.precision, dict.fromkeys(PRECISIONS))
        choose("device", t.device, dict.fromkeys(DEVICES))
        _require(t.lr > 0, "train.lr", t.lr, "above 0")
        _require(t.clip > 0, "train.clip", t.clip, "above 0")
        _require(s.temperature >= 1e-4, "sample.temperature", s.temperature, "at least 0.0001")  # finite in float32
        power = 1.0 if s.guidance_power is None else s.guidance_power
        _require(power > 0, "sample.guidance_power", power, "above 0")
        _require(abs(s.guidance) <= 1000, "sample.guidance", s.guidance, "-1000..1000")
        _require(0 < s.top_p <= 1, "sample.top_p", s.top_p, "above 0 and at most 1")
        choice = 0.0 if s.choice_temperature is None else s.choice_temperature
        _require(choice >= 0, "sample.choice_temperature", choice, "at least 0")
        _require(s.top_k >= 0, "sample.top_k", s.top_k, "at least 0")
        _require(e.images >= 5, "evaluate.images", e.images, "at least 5")


def _numbers(group: Any, kind: type) -> Iterator[tuple[str, Any]]:
    """Yield all numbers of a kind below a dataclass, with their dotted names, also those in lists."""
    for item in dataclasses.fields(group):
        value = getattr(group, item.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{item.name}.{name}", number) for name, number in _numbers(value, kind))
        for number in value if isinstance(value, list) else [value]:
            if type(number) is kind:
                yield item.name, number


def check_training(train: TrainConfig) -> None:
    """Check what only a training that begins must fulfil, so that older checkpoints open; raises InputError."""
    _require(
        train.warmup_steps <= train.max_steps,
        "train.warmup",
        train.warmup,
        f"at most train.max_steps={train.max_steps}",
    )


PATHS = {"data": ("root", "cache"), "tokenizer": ("checkpoint",), "order": ("covariance", "path")}


def _expand_paths(config: Config) -> None:
    """Let ~ stand for the home folder in every path, once and for all that read it."""
    holders: list[tuple[Any, tuple[str, ...]]] = [(config, ("init", "run"))]
    holders += [(getattr(config, group), names) for group, names in PATHS.items()]
    for holder, names in holders:
        for name in names:
            if (path := getattr(holder, name)) and path.startswith("~"):
                setattr(holder, name, str(Path(path).expanduser()))


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise InputError(f"{name}={value} is not possible: it must be {rule}")
