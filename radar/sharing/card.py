"""Model cards in Markdown: what was trained, on what, how it is used, and how well it did, with where that is from."""

from pathlib import Path
from typing import Any

from radar.config.options import Config
from radar.decoding.groups import step_sizes
from radar.model.transformer import parameter_count
from radar.training.checkpoints import Generator

CARD, SAMPLES = "README.md", "samples.png"
SHOWN = ("steps", "nll", "fid", "kid", "precision", "recall", "accuracy", "images_per_s")
OF_FEATURES = ("fid", "kid", "precision", "recall")
NEEDED = ("fid_feature", "samples", "reference", "commit", "hardware", "sample_precision", "timing_batch")


def head(kind: str, licence: str | None) -> str:
    """What the hub reads."""
    lines = ["---", "library_name: radar-ablations", f"tags: [image-generation, {kind}]"]
    return "\n".join([*lines, *([f"license: {licence}"] if licence else []), "---", ""])


def last(licence: str | None) -> str:
    """Of the licence."""
    return f"## Licence\n\n{licence or 'None was given. Ask who trained it before you use it.'}\n"


def budget(checkpoint: dict[str, Any], config: Config) -> str:
    """What it was trained with, or which published file it was imported from."""
    found = checkpoint["radar"]
    if (source := found.get("imported")) is not None:
        return f"imported from `{source['file']}` (sha256 {source['sha256'][:12]})"
    steps = int(found.get("trained_steps", checkpoint["global_step"]))
    return f"{steps} steps of {config.train.batch_size} images, seed {config.seed}"


def encoder_line(config: Config) -> list[str]:
    """Which frozen encoder must be there, if any."""
    name = config.tokenizer.encoder
    return (
        [] if name is None else [f"- encoder: `{Path(name).name}`, which is not part of this: `tokenizer.encoder=PATH`"]
    )


def plugins_line(checkpoint: dict[str, Any]) -> list[str]:
    """Which Python files must be there, if any."""
    names = [Path(text).name for text in checkpoint["radar"]["config"].get("plugins", [])]
    return [f"- plugins: `{', '.join(names)}`, not part of this: `radar.load(..., 'plugins=[FILE]')`"] * bool(names)


def tokenizer_card(config: Config, checkpoint: dict[str, Any], licence: str | None) -> str:
    """Card of a tokenizer."""
    c, trained = config.tokenizer, "imported" not in checkpoint["radar"]
    facts = [f"- tokenizer: `{c.name}`", f"- budget: {budget(checkpoint, config)}", *encoder_line(config)]
    facts += [f"- images: `{config.data.name}`"] * trained
    use = f"## Use\n\n```\nradar train CONFIG tokenizer.name={c.name} tokenizer.checkpoint=THIS_FOLDER\n```\n"
    return "\n".join([head("tokenizer", licence), "# Tokenizer", "", *facts, "", use, last(licence)])


def generator_card(
    generator: Generator, checkpoint: dict[str, Any], row: dict[str, Any] | None, licence: str | None
) -> str:
    """Card of a generator."""
    config = generator.config
    facts = [f"- {name}: {value}" for name, value in facts_of(generator).items()]
    parts = [
        head(config.generator, licence),
        f"# {config.order.name}/{config.attention} on {generator.data.name}"
        if config.generator == "autoregressive"
        else f"# {config.generator} on {generator.data.name}",
        "",
        f"![samples]({SAMPLES})",
        "",
        *facts,
        f"- budget: {budget(checkpoint, config)}",
        *encoder_line(config),
        *plugins_line(checkpoint),
        "",
        "## Use",
        "",
        "```python\nimport radar\n\nmodel = radar.load(\"THIS_FOLDER\")  # or hf://user/name\n"
        "images = model.sample(labels=[0, 0, 0], seed=0).images  # (3, 3, H, W) uint8\n```",
        "",
        "Every `radar` command that takes a checkpoint takes this folder too; to score, set `data.root=FOLDER`.",
        "",
        scores_section(row),
        last(licence),
    ]  # fmt: skip
    return "\n".join(parts)


def facts_of(generator: Generator) -> dict[str, str]:
    """What it is, in words."""
    c, data, module = generator.config, generator.data, generator.as_trained or generator.module
    h, w = module.grid
    passes, sizes = module.sampling(c.sample).passes, step_sizes(module.order.sampled(c.sample))
    ordered, tokenizer = c.generator == "autoregressive", generator.tokenizer
    cell = f"{tokenizer.channels} numbers each" if tokenizer.continuous else f"{tokenizer.vocabulary} codes"
    return {
        "images": f"{data.name}, {len(data.classes)} classes, {data.size[0]}x{data.size[1]} pixels ({data.crop})",
        "tokens": f"{h * w} cells of tokenizer `{c.tokenizer.name}`, {cell}",
        "sampling": f"{passes} forward passes"
        + (f", order `{c.order.name}`, {min(sizes)} to {max(sizes)} cells in each" if ordered else ""),
        "attention": f"`{c.attention}`" if ordered else "every cell sees every other",
        "parameters": f"{parameter_count(module.model):,}",
        "trained at": f"commit `{generator.commit}`",
    }


def scores_section(row: dict[str, Any] | None) -> str:
    """Scores with what they depend on; or that there are none."""
    if row is None:
        return "## Scores\n\nNone were given: `radar evaluate`, then `radar export` with `--scores`.\n"
    label = row["fid_feature"].partition(":")[0]
    titles = {name: f"{name}[{label}]" if name in OF_FEATURES else name for name in SHOWN}
    lines = [f"| {titles[name]} | {row[name]:.4g} |" for name in SHOWN if isinstance(row.get(name), int | float)]
    source = (
        f"{row['samples']} samples against {row['reference']}; features: {row['fid_feature']}; scored at commit "
        f"`{row['commit']}` on {row['hardware']}, {row['sample_precision']}, images/s at batch {row['timing_batch']}."
    )
    own = "" if label.startswith("inception") else " By these features no distance compares with a published FID."
    return "\n".join(["## Scores", "", "| score | value |", "| --- | --- |", *lines, "", source + own, ""])
