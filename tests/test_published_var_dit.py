"""VAR's and DiT's published weights: computed again from the published architectures, in float64.

Both were also compared with their repositories, whose code is not here (docs/methods.md).
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ablations.cli import main
from radar.attention import VARIANTS
from radar.diffusion.denoiser import Denoiser, waves
from radar.diffusion.spaces import Vectors
from radar.errors import InputError
from radar.model.autoencoders import var_tokenizer
from radar.model.dit import dit_denoiser
from radar.model.transformer import Transformer
from radar.model.var import var_transformer
from radar.scoring.samples import draw_samples
from radar.training.checkpoints import load_generator
from tests.command_line import fails
from tests.test_published_autoencoders import (
    CELLS,
    CODE,
    SIDES,
    VOCABULARY,
    State,
    drawn,
    kl_state,
    linear,
    vae_state,
)

CLASSES, DIM, HEADS, LAYERS = 10, 48, 3, 2


def var_state(shared: bool = False) -> State:
    """Random weights under the names of VAR's transformer."""
    plain: dict[str, tuple[int, ...]] = {
        "class_emb.weight": (CLASSES + 1, DIM), "lvl_embed.weight": (len(SIDES), DIM), "pos_start": (1, 1, DIM),
        "pos_1LC": (1, CELLS, DIM), "lvl_1L": (1, CELLS), "attn_bias_for_masking": (1, 1, CELLS, CELLS),
    }  # fmt: skip
    layers: dict[str, tuple[int, ...]] = {
        "word_embed": (DIM, CODE), "head": (VOCABULARY, DIM), "head_nm.ada_lin.1": (2 * DIM, DIM)
    }  # fmt: skip
    if shared:
        layers["shared_ada_lin.1"] = (6 * DIM, DIM)
    for i in range(LAYERS):
        block = f"blocks.{i}."
        plain |= {f"{block}attn.mat_qkv.weight": (3 * DIM, DIM), f"{block}attn.scale_mul_1H11": (1, HEADS, 1, 1)}
        plain |= {f"{block}attn.{name}": (DIM,) for name in ("q_bias", "v_bias", "zero_k_bias")}
        layers |= {
            f"{block}attn.proj": (DIM, DIM),
            f"{block}ffn.fc1": (4 * DIM, DIM),
            f"{block}ffn.fc2": (DIM, 4 * DIM),
        }
        (plain if shared else layers).update(
            {f"{block}ada_gss": (1, 1, 6, DIM)} if shared else {f"{block}ada_lin.1": (6 * DIM, DIM)}
        )
    state = drawn(plain | linear(layers))
    for i in range(LAYERS):
        state[f"blocks.{i}.attn.scale_mul_1H11"] = torch.tensor([0.5, 1.4, 5.0]).view(1, 3, 1, 1)  # the last is cut
        state[f"blocks.{i}.attn.zero_k_bias"].zero_()
    return state


def norm(x: torch.Tensor) -> torch.Tensor:
    """LayerNorm without weights."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def gelu(x: torch.Tensor) -> torch.Tensor:
    """By its approximation with tanh."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def var_logits(state: State, label: int, features: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) of VAR's architecture, head by head, by features (N - 1, C) of what is known below each scale."""
    w = {name: tensor.double() for name, tensor in state.items()}
    level = torch.tensor([k for k, side in enumerate(SIDES) for _ in range(side**2)])
    condition = w["class_emb.weight"][label]
    told = features.double() @ w["word_embed.weight"].T + w["word_embed.bias"]
    x = torch.cat([(condition + w["pos_start"][0, 0])[None], told]) + w["lvl_embed.weight"][level] + w["pos_1LC"][0]
    active = condition * condition.sigmoid()
    for i in range(LAYERS):
        b = f"blocks.{i}."
        made = f"{b}ada_lin.1." if f"{b}ada_gss" not in w else "shared_ada_lin.1."
        six = (w[f"{made}weight"] @ active + w[f"{made}bias"]).view(6, DIM)
        six = six + w[f"{b}ada_gss"][0, 0] if f"{b}ada_gss" in w else six
        gate1, gate2, scale1, scale2, shift1, shift2 = six
        y = norm(x) * (1 + scale1) + shift1
        q, k, v = (y @ w[f"{b}attn.mat_qkv.weight"].T).split(DIM, -1)
        q, v = q + w[f"{b}attn.q_bias"], v + w[f"{b}attn.v_bias"]
        mixed = []
        for h, part in enumerate(torch.arange(DIM).split(DIM // HEADS)):
            scale = min(100.0, math.exp(float(w[f"{b}attn.scale_mul_1H11"][0, h])))
            cosines = F.normalize(q[:, part], dim=-1) @ F.normalize(k[:, part], dim=-1).T
            mixed.append((scale * cosines).masked_fill(level[:, None] < level, -math.inf).softmax(-1) @ v[:, part])
        x = x + gate1 * (torch.cat(mixed, -1) @ w[f"{b}attn.proj.weight"].T + w[f"{b}attn.proj.bias"])
        y = norm(x) * (1 + scale2) + shift2
        hidden = gelu(y @ w[f"{b}ffn.fc1.weight"].T + w[f"{b}ffn.fc1.bias"])
        x = x + gate2 * (hidden @ w[f"{b}ffn.fc2.weight"].T + w[f"{b}ffn.fc2.bias"])
    scale, shift = (w["head_nm.ada_lin.1.weight"] @ active + w["head_nm.ada_lin.1.bias"]).split(DIM)
    return (norm(x) * (1 + scale) + shift) @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize("shared", [False, True])
def test_var_computes_what_was_published(shared):
    state, label = var_state(shared), 4
    config, ours = var_transformer(state, SIDES)
    features = torch.randn(1, CELLS, CODE)
    model = Transformer(config, VOCABULARY, CLASSES, (1, CELLS), False, lambda tokens, ranks: features, CODE).eval()
    model.load_state_dict(ours)  # strict: every tensor is accounted for
    slots = VARIANTS["block_causal"]([side**2 for side in SIDES])
    assert len(slots) == CELLS
    nothing = torch.zeros(1, len(slots), dtype=torch.long)
    with torch.inference_mode():
        hints = model.hints_of(slots, nothing)
        logits = model(slots, nothing, torch.tensor([label]), torch.arange(CELLS), slots.mask(), hints=hints)[0]
    expected = var_logits(state, label, features[0, 1:])
    assert expected.std() > 0.1
    assert torch.allclose(logits.double(), expected, atol=1e-4)


PIXELS, IMAGE, SIDE = 2, 4, 3  # of a latent image: per cell, channels; cells per side
CHANNELS = IMAGE * PIXELS**2


def dit_state(side: int = SIDE) -> State:
    """Random weights under DiT's names, for so many cells per side."""
    layers = {
        "x_embedder.proj": (DIM, IMAGE, PIXELS, PIXELS), "t_embedder.mlp.0": (DIM, 256), "t_embedder.mlp.2": (DIM, DIM),
        "final_layer.linear": (2 * CHANNELS, DIM), "final_layer.adaLN_modulation.1": (2 * DIM, DIM),
    }  # fmt: skip
    for i in range(LAYERS):
        sizes = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
        sizes["adaLN_modulation.1"] = (6, 1)
        layers |= {f"blocks.{i}.{name}": (a * DIM, b * DIM) for name, (a, b) in sizes.items()}
    plain = {"y_embedder.embedding_table.weight": (CLASSES + 1, DIM), "pos_embed": (1, side**2, DIM)}
    return drawn(linear(layers) | plain)


def dit_outputs(state: State, image: torch.Tensor, time: int, label: int) -> torch.Tensor:
    """What DiT's architecture gives for a latent image (c, H, W): (2 c, H, W)."""
    w = {name: tensor.double() for name, tensor in state.items()}

    def layer(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def silu(x):
        return x * x.sigmoid()

    entry = F.conv2d(image[None], w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=PIXELS)
    x = entry[0].flatten(1).T + w["pos_embed"][0]
    angles = time * torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128)
    seen = layer("t_embedder.mlp.2", silu(layer("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()]))))
    condition = silu(seen + w["y_embedder.embedding_table.weight"][label])
    for i in range(LAYERS):
        six = layer(f"blocks.{i}.adaLN_modulation.1", condition).split(DIM)
        shift1, scale1, gate1, shift2, scale2, gate2 = six
        q, k, v = layer(f"blocks.{i}.attn.qkv", norm(x) * (1 + scale1) + shift1).split(DIM, -1)
        mixed = [
            (q[:, part] @ k[:, part].T / len(part) ** 0.5).softmax(-1) @ v[:, part]
            for part in torch.arange(DIM).split(DIM // HEADS)
        ]
        x = x + gate1 * layer(f"blocks.{i}.attn.proj", torch.cat(mixed, -1))
        hidden = gelu(layer(f"blocks.{i}.mlp.fc1", norm(x) * (1 + scale2) + shift2))
        x = x + gate2 * layer(f"blocks.{i}.mlp.fc2", hidden)
    shift, scale = layer("final_layer.adaLN_modulation.1", condition).split(DIM)
    out = layer("final_layer.linear", norm(x) * (1 + scale) + shift)
    out = out.view(SIDE, SIDE, PIXELS, PIXELS, 2 * IMAGE)
    return torch.einsum("hwpqc->chpwq", out).reshape(2 * IMAGE, SIDE * PIXELS, SIDE * PIXELS)


def in_cells(image: torch.Tensor) -> torch.Tensor:
    """(c, H, W) -> (N, c P P)."""
    return image.unfold(1, PIXELS, PIXELS).unfold(2, PIXELS, PIXELS).movedim(0, 2).flatten(2).flatten(0, 1)


def test_dit_computes_what_was_published():
    state, random = dit_state(), torch.Generator().manual_seed(1)
    config, ours = dit_denoiser(state, CHANNELS, HEADS)
    model = Denoiser(config, Vectors(CHANNELS), CLASSES, (SIDE, SIDE), 2).eval()
    model.load_state_dict(ours)  # strict
    images = torch.randn(3, IMAGE, SIDE * PIXELS, SIDE * PIXELS, generator=random)
    time, labels = torch.tensor([0, 500, 999]), torch.tensor([0, 9, CLASSES])
    with torch.inference_mode():
        noise, share = model(torch.stack([in_cells(x) for x in images]), time, labels).split(CHANNELS, -1)
    for i, image in enumerate(images.double()):
        expected = dit_outputs(state, image, int(time[i]), int(labels[i]))
        assert expected.std() > 0.1
        assert torch.allclose(noise[i].double(), in_cells(expected[:IMAGE]), atol=1e-4)
        assert torch.allclose(share[i].double(), in_cells(expected[IMAGE:]), atol=1e-4)
    assert float(model.space(torch.ones(CHANNELS))[0]) == pytest.approx(0.18215) and waves(time).shape == (3, 256)


@pytest.mark.parametrize("name", ["var_vae", "kl_vae", "llamagen_vq"])
def test_what_is_imported_is_not_trained_here(name, capsys, tmp_path):
    options = ["tokenizer.levels=null", f"tokenizer.name={name}", "tokenizer.width=32", f"run={tmp_path / 'run'}"]
    assert f"tokenizer '{name}' is not trained here; choose" in fails(capsys, "tokenizer", "digits", *options)
    assert not (tmp_path / "run").exists()


def test_options_that_a_file_contradicts(capsys, tmp_path):
    torch.save(kl_state(), tmp_path / "kl.ckpt")
    for option, line in {
        "tokenizer.downsample=12": "a multiple of 8 expected",
        "tokenizer.width=64": "holds one of width=32",
        "tokenizer.sides=[1,2]": "holds one of sides=None",
    }.items():
        assert line in fails(capsys, "import", "kl-vae", tmp_path / "kl.ckpt", option)
    line = fails(capsys, "import", "llamagen-gpt", tmp_path / "kl.ckpt", "model.dim=128")
    assert "'model.dim=128' has no effect: the file says what the model is" in line
    state = kl_state()
    state["decoder.up.x.block.0.norm1.weight"] = state.pop("decoder.up.0.block.0.norm1.weight")
    torch.save(state, tmp_path / "kl.ckpt")
    assert "holds no weights of kind kl-vae" in fails(capsys, "import", "kl-vae", tmp_path / "kl.ckpt")


def test_from_published_files_to_images(tmp_path, capsys):
    """`radar import` of all three, on tiny images of a folder, then samples."""
    from PIL import Image

    for label in range(2):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (64, 64), (60 * i, 200 * label, 90)).save(tmp_path / "images" / str(label) / f"{i}.png")
    vae, var = vae_state(), {**var_state(), "class_emb.weight": torch.randn(3, DIM)}
    torch.save(vae, tmp_path / "vae.pth")
    torch.save(var, tmp_path / "var.pth")
    data = ["data.name=folder", f"data.root={tmp_path / 'images'}", "data.size=64", "data.held_out=0.25"]
    data += [f"data.cache={tmp_path}", "tokenizer.levels=null"]
    own = [*data, "tokenizer.name=var_vae", f"tokenizer.checkpoint={tmp_path / 'vae.ckpt'}"]
    main(
        [
            "import",
            "var-vae",
            str(tmp_path / "vae.pth"),
            "--out",
            str(tmp_path / "vae.ckpt"),
            "tokenizer.sides=[1,2,3,4]",
        ]
    )
    main(["import", "var", str(tmp_path / "var.pth"), "--out", str(tmp_path / "var.ckpt"), *own])
    main(["sample", str(tmp_path / "var.ckpt"), "sample.images=4", "--out", str(tmp_path / "samples")])
    generator = load_generator(tmp_path / "var.ckpt")
    assert generator.config.order.sides is None and generator.module.sampling(generator.config.sample).passes == 4
    samples = draw_samples(generator, replace(generator.config.sample, images=4))
    assert samples.tokens.shape == (4, CELLS) and samples.images.shape == (4, 3, 64, 64)
    capsys.readouterr()
    levels = [*data, "tokenizer.name=levels", "tokenizer.levels=17"]
    assert "draws tokens of several scales" in fails(capsys, "import", "var", tmp_path / "var.pth", *levels)
    dit = {**dit_state(side=4), "y_embedder.embedding_table.weight": torch.randn(3, DIM)}
    torch.save({"model": {}, "ema": dit}, tmp_path / "dit.pt")
    assert "DiT draws vectors" in fails(capsys, "import", "dit", tmp_path / "dit.pt", *levels)
    for code in (3, CHANNELS):
        folder = tmp_path / str(code)
        latents = [*data, "tokenizer.name=autoencoder", f"tokenizer.code={code}", "tokenizer.width=8"]
        latents += ["tokenizer.downsample=16", f"tokenizer.checkpoint={folder / 'last.ckpt'}"]
        main(["tokenizer", "digits", *latents, "train.max_steps=1", "train.batch_size=2"])
    capsys.readouterr()
    wrong = [*latents[:-4], "tokenizer.code=3", *latents[-3:-1], f"tokenizer.checkpoint={tmp_path / '3' / 'last.ckpt'}"]
    line = fails(capsys, "import", "dit", tmp_path / "dit.pt", *wrong)
    assert "cells of this DiT hold 4x2x2 numbers, and those of the tokenizer 3" in line
    main(["import", "dit", str(tmp_path / "dit.pt"), "--out", str(tmp_path / "dit.ckpt"), "model.heads=3", *latents])
    generator = load_generator(tmp_path / "dit.ckpt")
    samples = draw_samples(generator, replace(generator.config.sample, images=2, passes=3))
    assert samples.tokens.shape == (2, 16, CHANNELS) and samples.images.shape == (2, 3, 64, 64)
    for change, message in {
        lambda s: s.pop("blocks.1.attn.proj.bias"): r"tensor blocks.1.attn.proj.bias \(48,\) is missing",
        lambda s: s.update({"extra": torch.zeros(1)}): "tensor extra is unknown",
        lambda s: s.pop("head.weight"): "this is no VAR transformer",
    }.items():
        state = var_state()
        change(state)
        with pytest.raises(InputError, match=message):
            var_transformer(state, SIDES)
    with pytest.raises(InputError, match="this is no VAR tokenizer"):
        var_tokenizer(var_state())
    with pytest.raises(InputError, match="this is no DiT"):
        dit_denoiser(var_state(), 16)
