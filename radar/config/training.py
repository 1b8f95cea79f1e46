"""Options of training: of all kinds, and of a diffusion."""

from dataclasses import dataclass

from radar.config.described import option
from radar.errors import InputError

PRECISIONS = ("32-true", "bf16-mixed")  # float16 would need a loss scaler, bf16-true would round the rotary table
DEVICES = ("auto", "cpu", "cuda")
STRATEGIES = ("auto", "ddp", "fsdp")

# Options of TrainConfig that tokenizers do not read, and those that only they do.
OF_GENERATORS = (
    "ema", "layout", "layout_steps", "permutations", "corruption", "corruption_rate", "correction_weight",
    "align", "align_layer", "align_weight", "val_samples",
)  # fmt: skip
OF_TOKENIZERS = (
    "perceptual", "perceptual_weight", "adversarial_weight", "adversarial_start", "adversarial_width", "adversarial_lr",
)  # fmt: skip


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
