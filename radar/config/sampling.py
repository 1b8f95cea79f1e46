"""Options of sampling, and of the scores of what was sampled."""

from dataclasses import dataclass

from radar.config.described import LARGEST, option
from radar.config.training import PRECISIONS

PLACES = ("center", "left", "right", "top", "bottom")
EDITS = ("box", "random_box", "frame", "outpaint", "half", "cells", "class", "wider")
DEFAULT_METRICS = ["fid", "kid", "precision_recall", "accuracy", "duplicates", "validity"]


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
