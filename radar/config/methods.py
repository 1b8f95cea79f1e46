"""Published methods as options of the shared order, attention, transformer and sampler: `method: randar`.

Each function returns what the method sets; every other option keeps its value, so that methods are compared on one
trunk: pre-norm RMSNorm, SwiGLU, QK-norm, 2-D rotary positions of a slot's own cell and an embedding of the cell that it
predicts. Numbers of steps are those published for 16x16 cells. Each docstring cites the paper and says what is
simplified here; more in docs/methods.md.

To add one: a function, and a line in METHODS.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from radar.config.options import Config, OrderConfig, ReviseConfig
from radar.errors import InputError

Options = dict[str, dict[str, Any] | str]


def _method(order: dict[str, Any], attention: str, **groups: dict[str, Any] | str) -> Options:
    return {"order": order, "attention": attention, **groups}


def llamagen() -> Options:
    """LlamaGen (arXiv 2406.06525): raster, next-token prediction; 256 passes, 24x24: 576.

    Differs here: QK-norm, and a learned embedding of the next cell. Its published weights, which `radar import` reads,
    have neither.
    """
    return _method({"name": "raster"}, "causal")


def rar() -> Options:
    """RAR (arXiv 2411.00776): trained on random permutations, annealed to raster; sampled in raster, 256 passes.

    Its target-aware position embedding is the shared embedding of the cell to predict. Differs here: one such embedding
    per cell, where RAR has one per cell and use; the class is a token, and RAR's own way to know it is
    `model.conditioning=adaln`. Its guidance rises as a power of a cosine, here with the power of size L
    (2.5; B 2.75, XL 1.5, XXL 1.2).
    """
    return _method(
        {"name": "raster"},
        "causal",
        train={"permutations": "annealed"},
        sample={"guidance_schedule": "power_cosine", "guidance_power": 2.5},
    )


def randar() -> Options:
    """RandAR (arXiv 2412.01827): random orders, a position instruction before every token; 88 passes, cosine sizes.

    Trained cell by cell, so that any number of steps can be sampled: `sample.steps`. Each image is sampled in an order
    of its own. Guidance grows with the cells known before a pass.
    """
    sample = {"steps": 88, "schedule": "cosine", "order_per_image": True, "guidance_schedule": "known_before"}
    return _method({"name": "random"}, "instructed", train={"permutations": "random"}, sample=sample)


def par_4x() -> Options:
    """PAR (arXiv 2412.15119): 2x2 regions, first cells one by one, then four at a time; 67 passes, 24x24: 147.

    The group that is known predicts the next, cell by cell within its region, attending within the group. Differs here:
    where the first group of four needs three more inputs, shared queries stand for its three special tokens.
    """
    return _method({"name": "regions", "regions": 4}, "relay")


def par_16x() -> Options:
    """PAR (arXiv 2412.15119) with 4x4 regions; 31 passes, 24x24: 51. See par_4x."""
    return _method({"name": "regions", "regions": 16}, "relay")


def nar() -> Options:
    """NAR (arXiv 2503.10696): diagonals; a head for the cell to the right, one for that below, averaged; 31 passes.

    24x24: 47. Differs here: the second head has no layers of its own in front of it.
    """
    return _method({"name": "diagonal"}, "neighbours")


def arpg() -> Options:
    """ARPG (arXiv 2503.10568): half of the layers encode the content, half run on queries over its keys and values.

    Random orders, trained cell by cell; 64 passes with arccos sizes (`sample.schedule=cosine` is its other schedule,
    32 and 16 its other numbers of passes), one for all images of a batch. Guidance grows with the cells known after a
    pass. Differs here: QK-norm; one order for all batches too.
    """
    return _method(
        {"name": "random"},
        "plain",
        model={"query_share": 0.5},
        train={"permutations": "random"},
        sample={"steps": 64, "schedule": "arccos", "guidance_schedule": "known_after"},
    )


def lpd() -> Options:
    """LPD (arXiv 2507.01957): groups near to the context and far from each other; 20 passes, or `order.steps=32`.

    Trained on random permutations. Its group sizes are within one cell of the cosine schedule's. 24x24: 30 passes, in
    proportion to the side [ours]. Each image is sampled in an order of its own; guidance grows from token to token.
    Differs here: trained on the group sizes that are sampled, where LPD draws them at random, so that one model serves
    any number of steps.
    """
    sample = {"order_per_image": True, "guidance_schedule": "per_token"}
    return _method({"name": "lpd"}, "plain", train={"permutations": "random"}, sample=sample)


def ear() -> Options:
    """EAR (arXiv 2511.15499): a spiral from the middle in groups of 1, 3, 5, ... cells, queries apart; 16 passes.

    On other grids than 16x16 `order.steps` is to be the side. Differs here: `spiral_out`'s turn of the spiral.
    """
    order = {"name": "spiral_out", "steps": 16, "schedule": "linear"}
    return _method(order, "plain", model={"conditioning": "adaln"})


def maskgit() -> Options:
    """MaskGIT (arXiv 2202.04200): bidirectional, the most confident cells first; 8 passes, cosine sizes, 4.5 Gumbel.

    The order is an outcome of sampling: the step vector fixes the group sizes, and each image finds its own sequence.
    Differs here: trained on the K masking rates that sampling meets, two random ones per iteration, not on all rates;
    no label smoothing.
    """
    return _method(
        {"name": "random", "steps": 8, "schedule": "cosine"},
        "bidirectional",
        train={"permutations": "random", "layout": "sampled", "layout_steps": 2},
        sample={"choice_temperature": 4.5},
    )


def halton_maskgit() -> Options:
    """Halton-MaskGIT (arXiv 2503.17076): MaskGIT that decodes in the order of the Halton sequence; 12 passes here.

    The list of cells begins at a random place for each image, as with its option `randomize`.
    """
    return _method(
        {"name": "halton", "steps": 12, "schedule": "cosine"},
        "bidirectional",
        train={"permutations": "random", "layout": "sampled", "layout_steps": 2},
        sample={"order_per_image": True},
    )


def radar() -> Options:
    """RadAR-style (arXiv 2512.24639): rings, nested attention, correction; 13 passes.

    What is the paper's and what is ours: docs/method.md.
    """
    return _method({"name": "radial"}, "nested", sample={"correction": 0.1})


def var() -> Options:
    """VAR (arXiv 2404.02905): scale after scale, all cells of one at once, from what the lower ones give; 10 passes.

    Needs a tokenizer `multiscale`; on 8x8 cells 7 passes. Differs here: one embedding for each cell of
    each scale, in place of the sum of one for its place and one for its level; QK-norm, RMSNorm, SwiGLU, its own blocks
    being `model.trunk=vit model.cosine_attention=true`.
    """
    return _method(
        {"name": "scales"},
        "block_causal",
        model={"conditioning": "adaln", "positions": "learned"},
        sample={"guidance_schedule": "from_one"},
    )


def dit() -> Options:
    """DiT (arXiv 2212.09748): a diffusion of all cells at once, known by adaLN-zero what level and class; 250 passes.

    Differs here: codes of the tokens, normalised, unless `diffusion.latents=true` or tokenizer `autoencoder` give the
    latents that it draws; learned and rotary positions, RMSNorm, QK-norm and SwiGLU, its own blocks being
    `model.trunk=vit model.qk_norm=false`; optimizer and schedule of all arms.
    """
    return _method({"name": "together"}, "bidirectional", model={"conditioning": "adaln"}, generator="diffusion")


METHODS: dict[str, Callable[[], Options]] = {
    "llamagen": llamagen,
    "rar": rar,
    "randar": randar,
    "par_4x": par_4x,
    "par_16x": par_16x,
    "nar": nar,
    "arpg": arpg,
    "lpd": lpd,
    "ear": ear,
    "maskgit": maskgit,
    "halton_maskgit": halton_maskgit,
    "radar": radar,
    "var": var,
    "dit": dit,
}


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    """Defaults of all options of an order, and of all others that any method sets."""
    named = {"order": set(vars(OrderConfig())), "revise": set(vars(ReviseConfig()))}
    for method in METHODS.values():
        for group, options in method().items():
            if isinstance(options, dict):
                named.setdefault(group, set()).update(options)
    config = Config()
    return {group: {key: getattr(getattr(config, group), key) for key in sorted(keys)} for group, keys in named.items()}


def method_options(name: str) -> Options:
    """Options of a method, with the defaults of what others set and it does not; raises InputError for an unknown one.

    So what was set before, by another method or by a configuration, does not stay.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"unknown method '{name}'; choose from: {', '.join(METHODS)}")
    own: dict[str, Any] = METHODS[name]()
    return (
        {"generator": "autoregressive"}
        | own
        | {group: defaults | own.get(group, {}) for group, defaults in _defaults().items()}
    )
