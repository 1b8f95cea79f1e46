"""Every command that the docs show is run as it stands, with what makes it small put behind it."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ablations.cli import main
from radar.config.options import TokenizerConfig
from radar.tokenizers import build_tokenizer
from tests.test_docs import PAGES
from tests.test_published import shapes
from tests.test_published_autoencoders import kl_state, vae_state
from tests.test_published_var_dit import DIM, dit_state, var_state
from tests.test_studies import quick_workers

__all__ = ["quick_workers"]  # a fixture

SMALL = "train.max_steps=2 train.batch_size=4 model.dim=16 model.heads=1 model.layers=1 data.cache=cache"
TINY = "evaluate.images=20 evaluate.timing_repeats=1 evaluate.timing_batch=2 data.cache=cache"
DRAWN = "sample.images=4 data.cache=cache"
IMAGENET = (
    "train.max_steps=2 train.warmup=1 train.batch_size=4 train.micro_batch=none train.precision=32-true "
    "train.device=cpu data.held_out=0.5 data.workers=0 data.cache=cache data.size=64 model.dim=16 model.layers=1 "
    "model.heads=1 tokenizer.width=8 tokenizer.codebook=16 evaluate.features=cnn"
)
FIRST_STEPS = (
    "data.images=40 tokenizer.width=8 tokenizer_training.train.max_steps=2 tokenizer_training.train.batch_size=4"
)
FIRST = [page for page in PAGES if page.name in ("README.md", "commands.md")]
STUDY = f"{SMALL} {TINY} --workers 1"

# Documented command -> what is put behind it, in an order in which they can be run. Placeholders are those of FILES.
COMMANDS = {
    "radar orders --grid 16x16": "",
    "radar methods": "",
    "radar explore --grids 12x12 --steps 5,9 --out runs/explorer.html": "",
    "radar markov": "--images 200",
    "radar masks --order radial --variant nested --grid 8x8": "",
    "radar gap --grid 16x16 --length 4": "",
    "radar gap --orders radial,halton,optimised --steps 9": "--grid 8x8",
    "radar gap --from-data digits": "data.cache=cache",
    "radar gap --from-data digits --steps 7": "data.cache=cache",
    "radar tokenizer shapes_vq": f"{SMALL} data.images=40 tokenizer.width=8",
    "radar tokenizer shapes_fsq": f"{SMALL} data.images=40 tokenizer.width=8",
    "radar tokenizer fashion_vqgan": f"{SMALL} train.perceptual=[cnn] tokenizer.width=8",
    "radar tokenizer fashion": f"{SMALL} train.perceptual=[cnn] tokenizer.width=8",
    "radar gap --from-data shapes_fsq --estimate information --save runs/field.npz": (
        "data.images=40 tokenizer.width=8 data.cache=cache --pooled"
    ),
    "radar train digits order.name=optimised order.steps=7 attention=plain order.covariance=runs/field.npz": (
        f"{SMALL} run=runs/optimised"
    ),
    "radar train shapes_fsq method=var tokenizer.name=multiscale tokenizer.fsq_levels=null tokenizer.codebook=256 "
    "tokenizer.checkpoint=runs/tokenizers/scales/last.ckpt run=runs/shapes_var": f"{SMALL} {FIRST_STEPS}",
    "radar train shapes_fsq method=dit tokenizer.name=autoencoder tokenizer.fsq_levels=null tokenizer.code=8 "
    "tokenizer.checkpoint=runs/tokenizers/shapes-latents/last.ckpt run=runs/shapes_dit": f"{SMALL} {FIRST_STEPS}",
    "radar train digits method=var": f"{SMALL} {FIRST_STEPS}",
    "radar train digits method=dit run=runs/digits_dit": SMALL,
    "radar train shapes_frozen": f"{SMALL} {FIRST_STEPS}",
    "radar train digits": SMALL,
    "radar sample runs/digits/last.ckpt sample.guidance=1.5": DRAWN,
    "radar export runs/digits/last.ckpt digits": DRAWN,
    "radar edit runs/digits/last.ckpt --box 0.25,0.25,0.75,0.75": "--count 2 data.cache=cache",
    "radar edit runs/digits/last.ckpt --task outpaint --keep center:0.5 --steps 4": "--count 2 data.cache=cache",
    "radar edit runs/digits/last.ckpt --task class-edit --keep left --to-class 3": "--count 2 data.cache=cache",
    "radar edit runs/digits/last.ckpt --task extend --grid 8x12": "--count 2 data.cache=cache",
    "radar evaluate runs/digits/last.ckpt": TINY,
    "radar evaluate runs/digits/last.ckpt evaluate.edits=[box,half]": f"{TINY} evaluate.edit_images=10",
    "radar new my-study --images my_images --size 32 --orders radial,spiral_out --variants plain,nested --steps 7": (
        "--max-steps 2"
    ),
    "radar ablate my-study.yaml": "model.dim=16 model.heads=1 model.layers=1 train.batch_size=4 "
    + f"{TINY} --workers 1",
    "radar ablate ablations/studies/masks.yaml": STUDY,
    "radar watch ablations/studies/masks.yaml": f"{SMALL} {TINY}",
    "radar report ablations/studies/masks.yaml": f"{SMALL} {TINY}",
    "radar report FOLDER --baseline ARM": "",
    "radar ablate study.yaml --storage postgresql://user:password@host/database": STUDY,
    "radar options": "",
    "radar options train": "",
    "radar options --markdown": "",
    "radar curves runs/ablations/theory-*": "",
    "radar curves runs/ablations/theory-* --baseline radial": "",
    "radar bench --what sample,train --batch 16": (
        "--repeats 1 --grid 2x2 --arms raster/causal,radial/plain --vocabulary 16 --classes 3 model.dim=16 "
        "model.heads=1 model.layers=1"
    ),
    "radar import llamagen-vq vq_ds16_c2i.pt --out runs/vq.ckpt": "",
    "radar import llamagen-gpt c2i_B_256.pt --out runs/gpt.ckpt data.name=folder data.root=IMAGENET/train "
    "data.size=256 tokenizer.name=llamagen_vq tokenizer.checkpoint=runs/vq.ckpt": (
        "data.held_out=0.5 data.cache=cache model.heads=1"
    ),
    "radar import var-vae vae_ch160v4096z32.pth --out runs/var-vae.ckpt": "tokenizer.sides=[1,2,3,4]",
    "radar import var var_d16.pth --out runs/var.ckpt data.name=folder data.root=IMAGENET/train data.size=256 "
    "tokenizer.name=var_vae tokenizer.checkpoint=runs/var-vae.ckpt": "data.held_out=0.5 data.cache=cache",
    "radar sample runs/var.ckpt sample.guidance=2.5 sample.top_k=900 sample.top_p=0.96": DRAWN,
    "radar import kl-vae sd-vae-ft-ema.ckpt --out runs/kl-vae.ckpt tokenizer.downsample=16": "",
    "radar import dit DiT-XL-2-256x256.pt --out runs/dit.ckpt data.name=folder data.root=IMAGENET/train data.size=256 "
    "tokenizer.name=kl_vae tokenizer.checkpoint=runs/kl-vae.ckpt": "data.held_out=0.5 data.cache=cache model.heads=3",
    "radar sample runs/dit.ckpt sample.guidance=1.5 sample.guidance_channels=12": f"{DRAWN} sample.passes=2",
    "radar tokenizer imagenet data.root=IMAGENET/train": IMAGENET,
    "radar encode imagenet data.root=IMAGENET/train train.devices=2": IMAGENET,
    "radar plan imagenet train.devices=8 --grid 16x16 --vocabulary 16384 --classes 1000 --rates "
    "products=4e14,attention=2e14,bytes=1.5e12": "model.layers=1",
    "radar train imagenet data.root=IMAGENET/train train.devices=2": IMAGENET,
    "radar reference imagenet data.root=IMAGENET/train": f"{IMAGENET} evaluate.metrics=[fid,sfid]",
    "radar evaluate runs/imagenet/generator/last.ckpt evaluate.reference=VIRTUAL_imagenet256_labeled.npz "
    "evaluate.metrics=[fid,sfid,inception_score,precision_recall]": (f"{TINY} evaluate.features=cnn"),
    "radar sample runs/gpt.ckpt sample.guidance=2": "sample.images=2 data.cache=cache",
    "radar train imagenet init=runs/gpt.ckpt data.root=IMAGENET/train tokenizer.name=llamagen_vq "
    "tokenizer.checkpoint=runs/vq.ckpt model.preset=B order.name=radial attention=plain": (
        "train.max_steps=1 train.warmup=1 train.batch_size=2 train.micro_batch=none train.precision=32-true "
        "data.held_out=0.5 data.workers=0 data.cache=cache model.dim=64 model.layers=1 model.heads=1 "
        "tokenizer.width=none tokenizer.codebook=none tokenizer.downsample=none run=runs/tuned data.size=64"
    ),
}
ABBREVIATED = [
    "radar tokenizer fashion tokenizer.attention=true train.max_steps=5500",
    "radar evaluate CHECKPOINT",
    "radar edit --task extend --grid 8x12",
    "radar import llamagen-gpt FILE",
    "radar import llamagen-vq FILE",
    "radar import var-vae FILE tokenizer.sides=[1,2,3,4,6,9,13,18,24,32]",
    "radar import var-vae | var | kl-vae | dit",
]
ABBREVIATED += ["radar import llamagen-vq", "radar plan STUDY --study", "radar encode CONFIG", "radar reference CONFIG"]
ABBREVIATED += ["radar ablate imagenet_orders.yaml --workers 1 train.devices=8", "radar ablate fashion"]
ABBREVIATED += ["radar ablate fashion_long", "radar ablate claims_cpu", "radar ablate fashion_steps"]  # hours, days
ABBREVIATED += ["radar new NAME --images FOLDER"]  # tests/test_new.py
ABBREVIATED += ["radar sample CHECKPOINT sample.passes=10 sample.solver=ddim"]
ABBREVIATED += [
    "radar ablate editing",
    "radar ablate editing_fashion",
    "radar ablate alignment",
    "radar ablate frozen",
    "radar ablate latents",
    "radar ablate systems_fashion",
    "radar ablate systems",
    "radar ablate benchmarks/claims_gpu.yaml --workers 3 train.device=cuda",
    "radar ablate grids",
    "radar edit CHECKPOINT --count 400 --keep center:0.5 --encode whole",
]
VERBS = [
    "ablate",
    "report",
    "gap",
    "bench",
    "orders",
    "sample",
    "import",
    "tokenizer",
    "curves",
    "edit",
    "evaluate",
    "completion bash",
    "completion",
    "doctor",
    "explore",
    "export",
    "new",
    "plan",
    "push",
    "reference",
]
ABBREVIATED += [*(f"radar {verb}" for verb in VERBS), "radar gap --save"]
FILES = {"FOLDER": "runs/ablations/masks", "ARM": "plain", "runs/ablations/theory-*": "runs/ablations/masks"}
FILES |= {
    "data.size=256": "data.size=64",  # a film of 256 passes would take minutes
    "--baseline radial": "--baseline plain",
    "postgresql://user:password@host/database": "sqlite:///runs/shared.db",
    "VIRTUAL_imagenet256_labeled.npz": "runs/references/folder-train-folder-train-cnn.npz",
}


def documented(pages: list[Path] = PAGES) -> list[str]:
    """Commands of pages: lines of code blocks, and what stands in backticks, without comments and placeholders."""
    found = []
    for page in pages:
        text = page.read_text().replace(" \\\n", " ")
        blocks = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.S) for line in block.splitlines()]
        inline = re.findall(r"`(radar [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
        found += [line.split("#")[0].strip() for line in blocks if line.startswith("radar ")] + inline
    cleaned = [" ".join(text.replace("[key=value ...]", "").split()) for text in found]
    return list(dict.fromkeys(text for text in cleaned if text not in ABBREVIATED))


def test_every_documented_command_is_run_below():
    assert set(documented()) == set(COMMANDS)


def prepare() -> None:
    """What the commands name: a small study, images, weights under published names, 16 pixels to a cell."""
    study = "name: {name}\nbase: digits\nbaseline: plain\nconfig: {{order: {{name: radial, steps: 3}}}}\narms:\n"
    study += "  plain: {{attention: plain, sample: {{correction: 0.0}}}}\n  nested: {{attention: nested}}\n"
    Path("ablations/studies").mkdir(parents=True)
    Path("ablations/studies/masks.yaml").write_text(study.format(name="masks"))
    Path("study.yaml").write_text(study.format(name="shared"))
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        Path("IMAGENET/train", name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 256, (260, 256, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("IMAGENET/train", name, f"{i}.png"))
    for name in ("cats", "dogs"):
        Path("my_images", name).mkdir(parents=True)
        for i in range(30):
            pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("my_images", name, f"{i}.jpg"))
    torch.manual_seed(0)
    vq = build_tokenizer(TokenizerConfig(name="llamagen_vq", codebook=16, width=32))
    torch.save({"model": vq.state_dict()}, "vq_ds16_c2i.pt")
    torch.save({f"{n}.weight": 0.1 * torch.randn(s) for n, s in shapes(16, 2, 64, 1).items()}, "c2i_B_256.pt")
    torch.save(vae_state(), "vae_ch160v4096z32.pth")
    torch.save(var_state() | {"class_emb.weight": torch.randn(3, DIM)}, "var_d16.pth")
    torch.save(kl_state(), "sd-vae-ft-ema.ckpt")
    torch.save(dit_state(side=4) | {"y_embedder.embedding_table.weight": torch.randn(3, DIM)}, "DiT-XL-2-256x256.pt")


@pytest.mark.parametrize("pages", [FIRST, pytest.param(PAGES, marks=pytest.mark.slow)], ids=["first", "all"])
def test_documented_commands_run(pages, tmp_path, monkeypatch, capsys, fashion_files):
    monkeypatch.chdir(tmp_path)
    prepare()
    shown = documented(pages)
    for command, small in COMMANDS.items():
        if command not in shown:
            continue
        for written, here in FILES.items():
            command = command.replace(written, here)
        if (made := Path("my-study.yaml")).exists():  # of `radar new`; tests/test_new.py runs all of its seeds
            made.write_text(made.read_text().replace("seeds: [0, 1, 2]", "seeds: [0]"))
        try:
            main(shlex.split(f"{command} {small}")[1:])
        except SystemExit as error:
            pytest.fail(f"{command}: exit code {error.code}: {capsys.readouterr().err}")


def test_the_shown_study_is_one(tmp_path, monkeypatch):
    """The example of docs/studies.md, as it stands."""
    from ablations.study.plan import plan_study

    text = next(page for page in PAGES if page.name == "studies.md").read_text()
    (tmp_path / "my.yaml").write_text(re.findall(r"```yaml\n(name: my-orders.*?)```", text, re.S)[0])
    plan = plan_study(str(tmp_path / "my.yaml"), str(tmp_path / "out"), [f"data.cache={tmp_path}"])
    assert len(plan.trials) == 2 * 2 * 3
