"""What can be configured, group by group: type, default, text and range of every option.

Options that only some variants take (say `order.metric`) are passed on by `lookup.call`, which refuses those that the
chosen variant does not take. To add an option: a line here, in training.py or sampling.py, and the code that reads it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radar.config.described import LARGEST, check_options, group, option
from radar.config.plugins import import_plugins
from radar.config.sampling import EvaluateConfig, SampleConfig
from radar.config.training import DiffusionConfig, TrainConfig
from radar.errors import InputError


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
    checkpoint: str | None = option(None, "those that are learned: file of its weights, which `radar tokenizer` writes")


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
    tokenizer_training: dict[str, Any] = option(
        {}, "how a tokenizer that is not trained yet is trained first: options of train and data; the rest are defaults"
    )
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
