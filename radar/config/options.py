"""What can be configured, group by group: type, default, text and range of every option.

Options that only some variants take (say `order.metric`) are passed on by `lookup.call`, which refuses those that the
chosen variant does not take. To add an option: a line here, and the code that reads it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radar.config.described import LARGEST, check_options, group, option
from radar.config.plugins import import_plugins
from radar.errors import InputError

PRECISIONS = ("32-true", "bf16-mixed")  # float16 would need a loss scaler, bf16-true would round the rotary table
DEVICES = ("auto", "cpu", "cuda")
STRATEGIES = ("auto", "ddp", "fsdp")
PLACES = ("center", "left", "right", "top", "bottom")
EDITS = ("box", "random_box", "frame", "outpaint", "half", "cells", "class", "wider")
DEFAULT_METRICS = ["fid", "kid", "precision_recall", "accuracy", "duplicates", "validity"]


@dataclass
class OrderConfig:
    """In which order the cells are decoded (radar/decoding)."""

    name: str = option("radial", "an order of `radar orders`, or file")
    steps: int | None = option(None, "exactly this many groups; by default the natural ones")
    schedule: str | None = option(None, "group sizes: constant, linear, cosine, arccos")
    sizes: list[int] | None = option(None, "group sizes, one by one, in place of steps and schedule")
    sizes_of: str | None = option(None, "the natural group sizes of another order: name[:option=value...]")
    metric: str | None = option(None, "radial, multi_center, inwards: euclidean, chebyshev, manhattan")
    rounding: str | None = option(None, "radial, multi_center: ceil, round, floor")
    center: list[int] | None = option(None, "radial: [row, column] of the start cell")
    centers: list[list[int]] | None = option(None, "multi_center: start cells")
    sides: list[int] | None = option(
        None, "crops: sides of the squares, growing to the grid's longer side; scales: of the scales"
    )
    regions: int | None = option(None, "regions: how many, side by side, are decoded in parallel; a square number")
    length: float | None = option(None, "optimised: of the field that the order is made for, in cells")
    covariance: str | None = option(None, "optimised: file of the field instead, written by `radar gap --save`")
    nearness: float | None = option(None, "optimised: weight of being near to the context")
    seed: int | None = option(
        None,
        "which random order, where the list is cut (halton), or how ties are broken (lpd)",
        at_least=0,
        at_most=LARGEST,
    )
    path: str | None = option(None, "file: .npy of steps, (N,) or one order per image, (M, N)")


@dataclass
class DataConfig:
    """Which images (radar/data)."""

    name: str = option("digits", "digits, fashion, shapes, folder, shards or codes")
    root: str | None = option(
        None,
        "folder: one sub-folder per class, or images of one class; shards: .tar files; "
        "codes: codes.npy and labels.npy, or LlamaGen's files; "
        "fashion: its four .gz files",
    )
    size: int | None = option(
        None, "folder, shards: pixels per side after the crop; codes: of the images that were encoded", at_least=1
    )
    images: int | None = option(None, "shapes: number of training images", at_least=1)
    held_out: float | None = option(
        None, "all but fashion and shapes: share of each class that is never trained on", at_least=0, below=1
    )
    skip_unreadable: bool | None = option(None, "folder: leave out unreadable images instead of stopping")
    background: str | None = option(None, "folder, shards: white (default) or black, under transparent pixels")
    augment: str = option("none", "variants of training images: none, flip, tencrop")
    seed: int | None = option(None, "shapes: the stream; all others but fashion: the split", at_least=0)
    cache: str = option("runs/cache", "where encoded tokens and feature networks are kept")
    workers: int = option(0, "processes that load training batches", at_least=0)


@dataclass
class TokenizerConfig:
    """Image <-> tokens (radar/tokenizers)."""

    name: str = option(
        "levels", "levels, vq, fsq, multiscale, frozen, autoencoder; imported: llamagen_vq, var_vae, kl_vae"
    )
    levels: int | None = option(None, "levels: grey levels")
    codebook: int | None = option(None, "vq, multiscale, frozen: number of codes")
    code: int | None = option(None, "autoencoder: numbers per cell", at_least=1)
    fsq_levels: list[int] | None = option(
        None, "fsq, frozen: levels of each dimension; their product is the number of codes"
    )
    sides: list[int] | None = option(
        None, "multiscale, var_vae: cells per side of each scale, growing to that of the image"
    )
    encoder: str | None = option(
        None,
        "frozen: image encoder: efficientnet_lite0 (extra `features`), or a folder that transformers reads, by path",
    )
    attention: bool | None = option(None, "all that are trained here: self-attention between the cells, as in VQGAN")
    diversity: float | None = option(
        None, "vq, frozen: weight of each cell's entropy of codes in a batch, which is to grow", above=0
    )
    width: int | None = option(None, "all that are learned: channels of the convolutions")
    downsample: int | None = option(None, "all that are learned: pixels per cell and side")
    checkpoint: str | None = option(None, "those that are learned: trained by `radar tokenizer`")


@dataclass
class ReviseConfig:
    """How much of the known region a step encodes and revises again (attention nested, radar/attention)."""

    rings: int | None = option(None, "only the last rings; by default all")
    every: int | None = option(None, "all only in every n-th step, otherwise the last ring; by default in each")


@dataclass
class ModelConfig:
    """The transformer (radar/model); dim, layers and heads override the preset."""

    preset: str = option("tiny", "tiny, small, or LlamaGen's B, L, XL, XXL, 3B")
    dim: int | None = option(None, "width")
    layers: int | None = option(None, "blocks")
    heads: int | None = option(None, "attention heads")
    dropout: float = option(0.0, "share of features that a block's outputs lose in training", at_least=0, below=1)
    label_dropout: float = option(0.1, "share of images trained without their label, for guidance", at_least=0, below=1)
    query_share: float = option(
        0.0,
        "share of the layers, the last, that run on queries alone, over keys and values made once (ARPG)",
        at_least=0,
        below=1,
    )
    conditioning: str = option(
        "token",
        "how the class is known: token, by its own; adaln, also by scale, shift and gate of every block (adaLN-zero)",
        choices=("token", "adaln"),
    )
    trunk: str = option(
        "llama",
        "parts of a block: llama, RMSNorm, SwiGLU, no biases; vit, LayerNorm, GELU, biases (VAR, DiT)",
        choices=("llama", "vit"),
    )
    qk_norm: bool = option(True, "normalise queries and keys")
    cosine_attention: bool = option(False, "to length 1, with a learned scale of each head (VAR)")
    positions: str = option(
        "both",
        "what cells are known by: learned, an embedding of each; rotary, angles of row and column, in attention; both",
        choices=("learned", "rotary", "both"),
    )
    class_position: bool = option(True, "false: no queries and keys of the class token (LlamaGen's published weights)")
    backend: str = option(
        "auto",
        "attention in packed training: sdpa, under a dense mask; bands, which are rows of it without the columns that "
        "none of them sees; flex; auto: flex on CUDA, bands elsewhere",
    )
    checkpoint_activations: bool = option(False, "recompute in backward: less memory, about a third more time")
    compile: bool = option(False, "fuse what is not a matrix product (torch.compile): first steps take seconds longer")


@dataclass
class TrainConfig:
    """How it is trained (radar/training). Images seen = max_steps * batch_size."""

    max_steps: int = option(1000, "optimizer steps", at_least=1)
    batch_size: int = option(64, "images of an optimizer step, over all devices", at_least=1)
    micro_batch: int | None = option(
        None, "images that a device goes through at once, at most; by default all that it has to", at_least=1
    )
    devices: int = option(1, "devices of each node; what is trained does not depend on it", at_least=1)
    nodes: int = option(1, "machines, each started by torchrun, SLURM or the like", at_least=1)
    strategy: str = option(
        "auto",
        "of several devices: ddp, each holds all; fsdp, each a share of weights, optimizer and average; auto: ddp",
        choices=STRATEGIES,
    )
    optimizer: str | None = option(
        None,
        "adamw; or muon, for the matrices of the blocks, and adamw for the rest; by default muon for generators, adamw "
        "for tokenizers, which have no blocks",
    )
    lr: float | None = option(
        None, "learning rate of AdamW after the warm-up; by default 0.008 beside Muon, 0.002 alone", above=0
    )
    muon_lr: float = option(0.01, "learning rate of Muon after the warm-up", above=0)
    warmup: int | None = option(None, "steps of linear warm-up; by default 50, at most a tenth of all", at_least=0)
    decay: float | None = option(
        1.0,
        "share of the steps, the last, in which the rates fall linearly to zero; none: they fall as a cosine does",
        above=0,
        at_most=1,
    )
    weight_decay: float = option(0.05, "of weights, not of vectors and embeddings", at_least=0)
    clip: float = option(1.0, "largest gradient norm", above=0)
    ema: float = option(0.995, "decay of the generator's weight average; 0 turns it off", at_least=0, below=1)
    layout: str = option(
        "auto", "packed: all steps in one sequence; sampled: some per iteration; auto: packed where it is short"
    )
    layout_steps: int = option(3, "random steps per iteration of the sampled layout", at_least=1)
    permutations: str = option("fixed", "of the cells, per training image: fixed, reseeded, random, annealed")
    corruption: str = option("uniform", "what replaces known tokens in nested and full: uniform, shuffled, model")
    corruption_rate: float = option(0.3, "each image and step draws its rate from 0 to this", at_least=0, below=1)
    correction_weight: float = option(1.0, "weight of the correction loss")
    precision: str = option("32-true", "of training", choices=PRECISIONS)
    device: str = option("auto", "where it trains, samples and scores", choices=DEVICES)
    perceptual: list[str] = option([], "tokenizers: networks (see evaluate.features) whose maps are to be restored too")
    perceptual_weight: float = option(
        1.0, "weight of what each of them sees, beside squared and absolute error", above=0
    )
    adversarial_weight: float = option(
        0.0,
        "tokenizers: factor on the adaptive weight of a discriminator of patches (VQGAN); 0: none",
        at_least=0,
    )
    adversarial_start: int = option(0, "optimizer steps before it is trained and has a say", at_least=0)
    adversarial_width: int = option(64, "channels of its first layer, a multiple of 8", at_least=8)
    adversarial_lr: float = option(5e-4, "its AdamW's learning rate, under the same schedule", above=0)
    align: str | None = option(
        None, "generators: network (see evaluate.features) whose features a layer's slots are to tell, too (REPA)"
    )
    align_layer: int | None = option(None, "which layer, from 1; by default the middle one", at_least=1)
    align_weight: float = option(0.5, "weight of that loss", above=0)
    profile: bool = option(False, "write a trace of a few optimizer steps, and a table of where the time goes")
    loggers: list[str] = option(
        ["csv", "tensorboard"], "where figures and images are logged: csv (always), tensorboard, wandb, mlflow, trackio"
    )
    log_every: int = option(20, "optimizer steps between two lines of the logs", at_least=1)
    val_every: int | None = option(None, "optimizer steps between validations; by default a tenth of all", at_least=1)
    val_images: int | None = option(
        None, "held-out images of a validation, evenly spread; by default all, as for scoring", at_least=1
    )
    val_samples: int = option(0, "generators: images sampled in a validation, for a curve of fid; 0: none", at_least=0)
    checkpoint_every: int = option(200, "optimizer steps between checkpoints", at_least=1)
    patience: int | None = option(
        None,
        "end after so many validations without a better one, and keep the best; by default train to the end",
        at_least=1,
    )

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up."""
        return min(50, self.max_steps // 10) if self.warmup is None else self.warmup

    @property
    def validation_steps(self) -> int:
        """Optimizer steps between two validations."""
        return min(self.max_steps, max(1, self.max_steps // 10) if self.val_every is None else self.val_every)


@dataclass
class DiffusionConfig:
    """How codes become noise (radar/diffusion), where `generator` is diffusion."""

    latents: bool = option(False, "the tokenizer's vectors before they are rounded to codes, in place of the codes")

    levels: int = option(1000, "levels of noise", at_least=50)
    beta_start: float = option(
        1e-4,
        "variance of the noise that the first of 1,000 adds; of other numbers of levels in proportion",
        above=0,
        below=1,
    )
    beta_end: float = option(0.02, "that of the last; between them it grows linearly", above=0, below=1)
    learned_variance: bool = option(True, "learn that of the step back, between its least and its largest")


@dataclass
class SampleConfig:
    """How images are drawn (radar/sampling)."""

    images: int = option(100, "images that `radar sample` draws", at_least=1)
    batch_size: int = option(256, "images of a batch; does not change them", at_least=1)
    guidance: float = option(1.0, "s in u + s (c - u); 1: off", at_least=-1000, at_most=1000)
    guidance_schedule: str = option(
        "constant", "how s runs: constant, linear, from_one, known_before, known_after, per_token, power_cosine"
    )
    guidance_power: float | None = option(None, "p of the schedule power_cosine, by default 1", above=0)
    temperature: float = option(
        1.0, "logits are divided by it; diffusion: factor on fresh noise", at_least=1e-4
    )  # finite in float32
    top_k: int = option(0, "tokens that are kept; 0: all", at_least=0)
    top_p: float = option(1.0, "mass of the most likely tokens that are kept", above=0, at_most=1)
    correction: float = option(0.0, "known tokens less likely than this are drawn again; 0: off", at_least=0, below=1)
    order: str | None = option(
        None, "another order, in sampling only: name[:option=value...]; needs train.permutations"
    )
    order_per_image: bool = option(
        False, "draw the order anew for each image, by (sample.seed, image); needs train.permutations"
    )
    steps: int | None = option(
        None, "cut the permutation into so many groups, in sampling only; by default as trained", at_least=1
    )
    schedule: str | None = option(None, "their sizes (see order.schedule), in sampling only")
    grid: list[int] | None = option(None, "[rows, columns] of cells, where other than trained")
    place: str = option("center", "where in it the trained grid lies: center, left, right, top, bottom", choices=PLACES)
    rotary: str = option(
        "extend",
        "rotary angles beyond it: extend, as they are; ntk, slower ones (NTK-aware)",
        choices=("extend", "ntk"),
    )
    learned: str = option(
        "replicate",
        "embeddings of cells beyond it: replicate, those of its border; interpolate, all stretched over the grid",
        choices=("replicate", "interpolate"),
    )
    choice_temperature: float | None = option(
        None, "write the most confident cells first, with so much Gumbel noise (MaskGIT)", at_least=0
    )
    revise_rings: int | None = option(None, "as revise.rings, but in sampling only; by default as trained")
    revise_every: int | None = option(None, "as revise.every, but in sampling only; by default as trained")
    passes: int | None = option(
        None, "diffusion: levels of noise that are used, one pass each; by default 250", at_least=1
    )
    solver: str | None = option(
        None,
        "diffusion: ancestral (default), with fresh noise in every pass; or ddim, without: a temperature does nothing",
    )
    guidance_channels: int | None = option(
        None, "diffusion: guide only so many channels of the codes, the first (as DiT's three of four)", at_least=1
    )
    precision: str = option("32-true", "bf16-mixed: matrix products and cache in bfloat16", choices=PRECISIONS)
    seed: int = option(0, "image i depends on (seed, i) and its label alone", at_least=0, at_most=LARGEST)


@dataclass
class EvaluateConfig:
    """What is measured (radar/scoring)."""

    images: int = option(1000, "samples that are scored", at_least=5)
    labels: str = option("balanced", "classes of the samples: balanced, or as_data: in the shares of the data")
    features: list[str] = option(
        ["cnn"],
        "feature networks, the first decides: cnn (own classifier of the data set), efficientnet_lite0 (extra "
        "`features`), inception (extra `fid`), or the path of a TorchScript file or of a transformers folder",
    )
    reference: list[str] = option(
        [],
        "files of the reference set's statistics, one per network: of `radar reference`, or ADM's .npz; by default "
        "the training images",
    )
    reference_images: int = option(50_000, "real images of each split, evenly spread, at most", at_least=5)
    edits: list[str] = option(
        [], "standard edits of held-out images (docs/editing.md) that are scored, too", choices=EDITS
    )
    edit_images: int = option(500, "held-out images that are edited, evenly spread, at most", at_least=2)
    probe: bool = option(False, "fit a linear classifier of the middle block's features, or the aligned one's, too")
    metrics: list[str] = option(DEFAULT_METRICS, "which of the metrics; further: sfid, inception_score")
    timing_batch: int = option(64, "images of a timed batch", at_least=1)
    timing_repeats: int = option(5, "timed rounds", at_least=1)


@dataclass
class Config:
    """Everything that defines one run."""

    data: DataConfig = group(DataConfig)
    tokenizer: TokenizerConfig = group(TokenizerConfig)
    generator: str = option(
        "autoregressive", "autoregressive: tokens, group after group; diffusion: codes of all cells, out of noise"
    )
    order: OrderConfig = group(OrderConfig)
    attention: str = option("nested", "variant: causal, plain, relay, nested, full, nested_memory, bidirectional, ...")
    revise: ReviseConfig = group(ReviseConfig)
    model: ModelConfig = group(ModelConfig)
    train: TrainConfig = group(TrainConfig)
    diffusion: DiffusionConfig = group(DiffusionConfig)
    sample: SampleConfig = group(SampleConfig)
    evaluate: EvaluateConfig = group(EvaluateConfig)
    init: str | None = option(None, "checkpoint of a generator to begin with, whose `model` options then hold")
    plugins: list[str] = option([], "Python files of your own that add orders, attentions and the like; imported first")
    seed: int = option(0, "of weights, batches and corruption", at_least=0, at_most=LARGEST)
    run: str = option("runs/default", "folder of logs and checkpoints")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what another process sends, which has checked it."""
        self.__dict__.update(state)
        import_plugins(self.plugins)

    def __post_init__(self) -> None:
        """Check all options; raises InputError."""
        _expand_paths(self)
        check_options(self)
        import_plugins(self.plugins)
        if not self.run:
            raise InputError(f"run={self.run!r} is not possible: it must be the name of a folder")
        if self.sample.guidance != 1 and not self.model.label_dropout:
            raise InputError(
                f"sample.guidance={self.sample.guidance} is not possible: it must be 1 where model.label_dropout=0 (no "
                "image is trained without its label)"
            )


def check_training(train: TrainConfig) -> None:
    """Check what only a training that begins must fulfil, so that older checkpoints open; raises InputError."""
    if train.warmup_steps > train.max_steps:
        raise InputError(
            f"train.warmup={train.warmup} is not possible: it must be at most train.max_steps={train.max_steps}"
        )
    if train.val_samples == 1:
        raise InputError("train.val_samples=1 is not possible: 0, or 2 at least, for a covariance")
    validations = train.max_steps // train.validation_steps
    if train.patience is not None and train.patience >= validations:
        raise InputError(
            f"train.patience={train.patience} has no effect: it must be less than the {validations} validations of "
            f"train.max_steps={train.max_steps}, one every {train.validation_steps} (train.val_every)"
        )


PATHS = {"data": ("root", "cache"), "tokenizer": ("checkpoint", "encoder"), "order": ("covariance", "path")}


def _expand_paths(config: Config) -> None:
    """Let ~ stand for the home folder in every path, once and for all that read it."""
    holders: list[tuple[Any, tuple[str, ...]]] = [(config, ("init", "run"))]
    holders += [(getattr(config, name), options) for name, options in PATHS.items()]
    holders += [(config.train, ("align",))]
    for words in (config.evaluate.features, config.train.perceptual, config.plugins):
        words[:] = [str(Path(word).expanduser()) if word.startswith("~") else word for word in words]
    for holder, names in holders:
        for name in names:
            if (path := getattr(holder, name)) and path.startswith("~"):
                setattr(holder, name, str(Path(path).expanduser()))
