"""Model cards in Markdown: what was trained, on what, how it is used, and how well it did, with where that is from."""

from typing import Any

from radar.config.options import Config
from radar.decoding.groups import step_sizes
from radar.model.transformer import parameter_count
from radar.training.checkpoints import Generator

CARD, SAMPLES = "README.md", "samples.png"
SHOWN = ("steps", "nll", "fid", "kid", "precision", "recall", "accuracy", "images_per_s")
OF_FEATURES = ("fid", "kid", "precision", "recall")


def head(licence: str | None) -> str:
    """What the hub reads."""
    lines = ["---", "library_name: radar-ablations", "tags: [image-generation, autoregressive]"]
    return "\n".join([*lines, *([f"license: {licence}"] if licence else []), "---", ""])


def last(licence: str | None) -> str:
    """Of the licence."""
    return f"## Licence\n\n{licence or 'None was given. Ask who trained it before you use it.'}\n"


def tokenizer_card(config: Config, licence: str | None) -> str:
    """Card of a tokenizer."""
    c, t = config.tokenizer, config.train
    told = f"A `{c.name}` tokenizer, trained for {t.max_steps} steps of {t.batch_size} images of `{config.data.name}`."
    use = "## Use\n\n```\nradar train CONFIG tokenizer.name=" + c.name + " tokenizer.checkpoint=THIS_FOLDER\n```\n"
    return "\n".join([head(licence), "# Tokenizer", "", told, "", use, last(licence)])


def generator_card(generator: Generator, row: dict[str, Any] | None, licence: str | None) -> str:
    """Card of a generator."""
    facts = "\n".join(f"- {name}: {value}" for name, value in facts_of(generator).items())
    parts = [
        head(licence),
        f"# {generator.config.order.name}/{generator.config.attention} on {generator.data.name}",
        "",
        f"![samples]({SAMPLES})",
        "",
        facts,
        "",
        "## Use",
        "",
        "```python\nimport radar\n\nmodel = radar.load(\"THIS_FOLDER\")  # or hf://user/name\n"
        "images = model.sample(labels=[0, 0, 1], seed=0).images  # (3, 3, H, W) uint8\n```",
        "",
        "Every `radar` command that takes a checkpoint takes this folder too.",
        "",
        scores_section(row),
        last(licence),
    ]  # fmt: skip
    return "\n".join(parts)


def facts_of(generator: Generator) -> dict[str, str]:
    """What it is, in words."""
    c, data, module = generator.config, generator.data, generator.as_trained or generator.module
    h, w = module.grid
    sizes = step_sizes(module.order.step)
    return {
        "images": f"{data.name}, {len(data.classes)} classes, {data.size[0]}x{data.size[1]} pixels ({data.crop})",
        "tokens": f"{h}x{w} cells of tokenizer `{c.tokenizer.name}`, {generator.tokenizer.vocabulary} codes",
        "order": f"`{c.order.name}`, K = {len(sizes)} steps of {min(sizes)} to {max(sizes)} cells",
        "attention": f"`{c.attention}`" if c.generator == "autoregressive" else f"none, generator `{c.generator}`",
        "parameters": f"{parameter_count(module.model):,}",
        "budget": f"{generator.trained_steps} steps of {c.train.batch_size} images, seed {c.seed}",
        "trained at": f"commit `{generator.commit}`",
    }


def scores_section(row: dict[str, Any] | None) -> str:
    """Scores with what they depend on; or that there are none."""
    if row is None:
        return "## Scores\n\nNone: `radar evaluate` was not run on it.\n"
    label = row["fid_feature"].partition(":")[0]
    titles = {name: f"{name}[{label}]" if name in OF_FEATURES else name for name in SHOWN}
    lines = [f"| {titles[name]} | {row[name]:.4g} |" for name in SHOWN if isinstance(row.get(name), int | float)]
    source = (
        f"{row['samples']} samples against {row['reference']}; features: {row['fid_feature']}; scored at commit "
        f"`{row['commit']}` on {row['hardware']}, {row['sample_precision']}, images/s at batch {row['timing_batch']}."
    )
    own = "" if label.startswith("inception") else " By these features no distance compares with a published FID."
    return "\n".join(["## Scores", "", "| score | value |", "| --- | --- |", *lines, "", source + own, ""])
