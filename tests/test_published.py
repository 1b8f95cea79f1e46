"""Published weights: computed again from the published architecture, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from ablations.cli import main
from radar.attention import VARIANTS
from radar.config.load import load_config
from radar.config.options import ModelConfig, TokenizerConfig
from radar.errors import InputError
from radar.model.llamagen import llamagen_gpt, llamagen_vq
from radar.model.transformer import Transformer
from radar.model.trunks import swiglu_width
from radar.tokenizers import build_tokenizer
from radar.tokenizers.llamagen import MULTIPLES
from radar.training.checkpoints import adopt, load_generator, load_tokenizer
from radar.training.imported import IMPORTS, read_published, save_checkpoint
from radar.training.runs import train_generator

DIM, LAYERS, HEADS, VOCABULARY, CLASSES, SIDE = 256, 2, 4, 50, 5, 3


def shapes(vocabulary: int, classes: int, dim: int, layers: int) -> dict[str, tuple[int, ...]]:
    """LlamaGen's names and shapes, without `.weight`."""
    hidden = swiglu_width(dim)
    found = {"tok_embeddings": (vocabulary, dim), "cls_embedding.embedding_table": (classes + 1, dim)}
    found |= {"norm": (dim,), "output": (vocabulary, dim)}
    for i in range(layers):
        found |= {f"layers.{i}.attention_norm": (dim,), f"layers.{i}.ffn_norm": (dim,)}
        found |= {f"layers.{i}.attention.wqkv": (3 * dim, dim), f"layers.{i}.attention.wo": (dim, dim)}
        found |= {f"layers.{i}.feed_forward.{w}": (hidden, dim) for w in ("w1", "w3")}
        found |= {f"layers.{i}.feed_forward.w2": (dim, hidden)}
    return found


def published() -> dict[str, torch.Tensor]:
    """Random weights under LlamaGen's names."""
    random, named = torch.Generator().manual_seed(0), shapes(VOCABULARY, CLASSES, DIM, LAYERS)
    return {f"{name}.weight": 0.1 * torch.randn(shape, generator=random) for name, shape in named.items()}


def computed(state: dict[str, torch.Tensor], label: int, tokens: list[int]) -> torch.Tensor:
    """Logits (N, V) of LlamaGen's architecture, cell by cell and head by head, in float64."""
    w = {name.removesuffix(".weight"): tensor.double() for name, tensor in state.items()}
    width = DIM // HEADS

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def turned(vector, place):
        if place == 0:
            return torch.zeros_like(vector)  # the class token
        row, column = divmod(place - 1, SIDE)
        result = vector.clone()
        for pair in range(width // 2):
            steps, index = (row, pair) if pair < width // 4 else (column, pair - width // 4)
            angle = steps * 10000 ** (-2 * index / (width // 2))
            a, b = vector[2 * pair], vector[2 * pair + 1]
            result[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            result[2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
        return result

    x = torch.stack([w["cls_embedding.embedding_table"][label], *(w["tok_embeddings"][t] for t in tokens[:-1])])
    for i in range(LAYERS):
        q, k, v = (norm(x, w[f"layers.{i}.attention_norm"]) @ w[f"layers.{i}.attention.wqkv"].T).split(DIM, -1)
        mixed = torch.zeros_like(x)
        for h in range(HEADS):
            part = slice(h * width, (h + 1) * width)
            for s in range(len(x)):
                scores = torch.stack([turned(q[s, part], s) @ turned(k[t, part], t) for t in range(s + 1)])
                mixed[s, part] = (scores / math.sqrt(width)).softmax(0) @ v[: s + 1, part]
        x = x + mixed @ w[f"layers.{i}.attention.wo"].T
        y = norm(x, w[f"layers.{i}.ffn_norm"])
        gate, up = (y @ w[f"layers.{i}.feed_forward.{name}"].T for name in ("w1", "w3"))
        x = x + (gate * gate.sigmoid() * up) @ w[f"layers.{i}.feed_forward.w2"].T
    return norm(x, w["norm"]) @ w["output"].T


def test_llamagen_gpt_computes_what_was_published():
    state, tokens, label = published(), [3, 49, 0, 7, 7, 21, 30, 11, 2], 4
    config, ours = llamagen_gpt(state, (SIDE, SIDE))
    model = Transformer(config, VOCABULARY, CLASSES, (SIDE, SIDE)).eval()
    model.load_state_dict(ours)  # strict: every tensor is accounted for
    slots = VARIANTS["causal"]([1] * SIDE**2)
    content = torch.tensor([tokens])[:, slots.rank.clamp(min=0)]
    with torch.inference_mode():
        logits = model(slots, content, torch.tensor([label]), torch.arange(SIDE**2), slots.mask())[0]
    expected = computed(state, label, tokens)
    assert expected.std() > 0.1
    assert torch.allclose(logits.double(), expected, atol=1e-5)


@pytest.mark.parametrize(("preset", "heads"), [("B", 12), ("L", 16), ("XL", 20), ("XXL", 24), ("3B", 32)])
def test_sizes_are_recognised(preset, heads):
    with torch.device("meta"):
        model = Transformer(ModelConfig(preset=preset, qk_norm=False), 16384, 1000, (16, 16))
        named = shapes(16384, 1000, model.shape.dim, model.shape.layers)
        config, ours = llamagen_gpt({f"{k}.weight": torch.empty(v) for k, v in named.items()}, (16, 16))
    assert config.heads == heads
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_other_files_are_refused():
    for change, message in {
        lambda s: s.pop("layers.1.attention.wo.weight"): r"tensor layers.1.attention.wo.weight \(256, 256\) is missing",
        lambda s: s.update({"extra.bias": torch.zeros(1)}): "tensor extra.bias is unknown",
        lambda s: s.update({"norm.weight": torch.zeros(3)}): r"tensor norm.weight has the shape \(3,\), not \(256,\)",
        lambda s: s.pop("tok_embeddings.weight"): "this is no LlamaGen GPT",
    }.items():
        state = published()
        change(state)
        with pytest.raises(InputError, match=message):
            llamagen_gpt(state, (SIDE, SIDE))


def vq_shapes(width: int, codes: int, downsample: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of LlamaGen's tokenizers, without `.weight` and `.bias`; 4 numbers for a convolution."""
    multiples = {16: (1, 1, 2, 2, 4), 8: (1, 2, 2, 4)}[downsample]
    sizes, found = [width * m for m in multiples], dict[str, tuple[int, ...]]()

    def residual(name: str, a: int, b: int) -> None:
        found.update({f"{name}.norm1": (a,), f"{name}.conv1": (b, a, 3, 3), f"{name}.norm2": (b,)})
        found.update({f"{name}.conv2": (b, b, 3, 3)} | ({f"{name}.nin_shortcut": (b, a, 1, 1)} if a != b else {}))

    def attention(name: str, a: int) -> None:
        found.update({f"{name}.norm": (a,)} | {f"{name}.{part}": (a, a, 1, 1) for part in ("q", "k", "v", "proj_out")})

    for half, channels, blocks, scale in (
        ("encoder", [width, *sizes], 2, "downsample"), ("decoder", [sizes[-1], *sizes[::-1]], 3, "upsample")
    ):  # fmt: skip
        for i in range(len(sizes)):
            for j in range(blocks):
                residual(f"{half}.conv_blocks.{i}.res.{j}", channels[i] if j == 0 else channels[i + 1], channels[i + 1])
                if i == (len(sizes) - 1 if half == "encoder" else 0):
                    attention(f"{half}.conv_blocks.{i}.attn.{j}", channels[i + 1])
            if i < len(sizes) - 1:
                found[f"{half}.conv_blocks.{i}.{scale}.conv"] = (channels[i + 1], channels[i + 1], 3, 3)
        residual(f"{half}.mid.0", sizes[-1], sizes[-1])
        attention(f"{half}.mid.1", sizes[-1])
        residual(f"{half}.mid.2", sizes[-1], sizes[-1])
    found |= {"encoder.conv_in": (width, 3, 3, 3), "encoder.norm_out": (sizes[-1],)}
    found |= {"encoder.conv_out": (256 * width // 128, sizes[-1], 3, 3), "quant_conv": (8, 2 * width, 1, 1)}
    found |= {"decoder.conv_in": (sizes[-1], 2 * width, 3, 3), "decoder.norm_out": (sizes[0],)}
    return found | {"decoder.conv_out": (3, sizes[0], 3, 3), "post_quant_conv": (2 * width, 8, 1, 1)}


def published_vq(width: int, codes: int, downsample: int) -> dict[str, torch.Tensor]:
    """Random weights under LlamaGen's names."""
    random, state = torch.Generator().manual_seed(0), {}
    for name, shape in vq_shapes(width, codes, downsample).items():
        fan = math.prod(shape[1:])
        noise = torch.randn(shape, generator=random)
        state[f"{name}.weight"] = noise / fan**0.5 if len(shape) == 4 else 1 + 0.1 * noise
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=random)
    state["quantize.embedding.weight"] = torch.randn(codes, 8, generator=random)
    return state | {"quantize.codebook_used": torch.zeros(65536)}


class Computed:
    """The published tokenizer written out with plain functions, in float64."""

    def __init__(self, state: dict[str, torch.Tensor], downsample: int) -> None:
        self.w = {name: tensor.double() for name, tensor in state.items()}
        self.levels = {16: 5, 8: 4}[downsample]

    def conv(self, name, x, **options):
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **options)

    def norm(self, name, x):
        groups = x.unflatten(1, (32, -1))
        mean = groups.mean((2, 3, 4), keepdim=True)
        variance = groups.var((2, 3, 4), unbiased=False, keepdim=True)
        flat = ((groups - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
        return flat * self.w[f"{name}.weight"][:, None, None] + self.w[f"{name}.bias"][:, None, None]

    def residual(self, name, x):
        y = x
        for i in ("1", "2"):
            y = self.norm(f"{name}.norm{i}", y)
            y = self.conv(f"{name}.conv{i}", y * torch.sigmoid(y), padding=1)
        return y + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.w else x)

    def attention(self, name, x):
        y = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", y).flatten(2) for part in "qkv")
        weights = (torch.einsum("bdi,bdj->bij", q, k) / q.shape[1] ** 0.5).softmax(-1)
        mixed = torch.einsum("bij,bdj->bdi", weights, v).view(x.shape)
        return x + self.conv(f"{name}.proj_out", mixed)

    def middle(self, half, x):
        return self.residual(f"{half}.mid.2", self.attention(f"{half}.mid.1", self.residual(f"{half}.mid.0", x)))

    def blocks(self, half, x, scale):
        for i in range(self.levels):
            name = f"{half}.conv_blocks.{i}"
            for j in range(2 if half == "encoder" else 3):
                x = self.residual(f"{name}.res.{j}", x)
                if f"{name}.attn.{j}.q.weight" in self.w:
                    x = self.attention(f"{name}.attn.{j}", x)
            x = scale(name, x) if i < self.levels - 1 else x
        return x

    def last(self, half, x):
        y = self.norm(f"{half}.norm_out", x)
        return self.conv(f"{half}.conv_out", y * torch.sigmoid(y), padding=1)

    def features(self, pixels):
        def halve(name, x):
            return self.conv(f"{name}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)

        x = self.conv("encoder.conv_in", pixels, padding=1)
        x = self.last("encoder", self.middle("encoder", self.blocks("encoder", x, halve)))
        return F.normalize(self.conv("quant_conv", x), dim=1).flatten(2).transpose(1, 2)

    def restore(self, tokens, side):
        def double(name, x):
            doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            return self.conv(f"{name}.upsample.conv", doubled, padding=1)

        codes = F.normalize(self.w["quantize.embedding.weight"], dim=1)[tokens].transpose(1, 2)
        x = self.conv("post_quant_conv", codes.unflatten(2, (side, side)))
        x = self.middle("decoder", self.conv("decoder.conv_in", x, padding=1))
        return self.last("decoder", self.blocks("decoder", x, double))


@pytest.mark.parametrize("downsample", [8, 16])
def test_llamagen_vq_computes_what_was_published(downsample):
    state = published_vq(32, 50, downsample)
    config, ours = llamagen_vq(state)
    assert (config.name, config.codebook, config.width, config.downsample) == ("llamagen_vq", 50, 32, downsample)
    tokenizer = build_tokenizer(config).eval()
    tokenizer.load_state_dict(ours)  # strict: every tensor is accounted for
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected, side = Computed(state, downsample), 32 // downsample
    tokens = torch.randint(50, (2, side**2))
    with torch.no_grad():
        found, restored = tokenizer.features(images), tokenizer.restore(tokens, (side, side))
        features = expected.features(images.double() / 127.5 - 1)
    codes = F.normalize(state["quantize.embedding.weight"].double(), dim=1)
    assert torch.allclose(found.double(), features, atol=1e-5)
    assert torch.equal(tokenizer.encode(images), torch.cdist(features, codes.expand(2, -1, -1)).argmin(-1))
    assert torch.allclose(restored.double(), expected.restore(tokens, side), atol=1e-5)
    assert tokenizer.decode(tokens, (side, side)).shape == (2, 3, 32, 32)


def test_the_published_tokenizers_have_these_shapes():
    for downsample, sizes in MULTIPLES.items():
        with torch.device("meta"):
            ours = build_tokenizer(TokenizerConfig(name="llamagen_vq", downsample=downsample)).state_dict()
        named = vq_shapes(128, 16384, downsample)
        published = {f"{name}.weight": shape for name, shape in named.items()}
        published |= {f"{name}.bias": shape[:1] for name, shape in named.items()}
        published |= {"quantize.embedding.weight": (16384, 8)}
        assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == published
        assert len(sizes) == downsample.bit_length()


def test_imported_weights_are_sampled_scored_and_tuned_to_another_order(tmp_path):
    """The whole way of a user: file, `radar import`, `radar sample`, and `radar train init=...` in another order."""
    named = shapes(17, 10, 64, 2)
    random = torch.Generator().manual_seed(0)
    state = {f"{name}.weight": 0.1 * torch.randn(shape, generator=random) for name, shape in named.items()}
    file, imported = tmp_path / "published.pt", tmp_path / "imported.ckpt"
    torch.save({"model": state}, file)
    data = ["data.name=digits", "tokenizer.name=levels", f"data.cache={tmp_path}"]
    main(["import", "llamagen-gpt", str(file), "--out", str(imported), "model.heads=2", *data])
    main(["sample", str(imported), "sample.images=10", "--out", str(tmp_path / "samples")])
    generator = load_generator(imported)
    tokens, labels = torch.randint(17, (3, 64)), torch.tensor([0, 4, 9])
    with torch.inference_mode():
        before = generator.module.nll(tokens, labels)
    options = [*data, f"init={imported}", f"run={tmp_path / 'run'}", "order.name=radial", "attention=plain"]
    tuned = load_generator(train_generator(load_config(None, [*options, "train.max_steps=2", "train.batch_size=4"])))
    assert tuned.config.model.class_position is False and tuned.config.order.name == "radial"
    with pytest.raises(InputError, match=r"init=.* is a model of another size: .*dim=64.*give .*dim=32"):
        train_generator(load_config(None, [*options, "model.dim=32"]))
    same = load_config(None, [*options, "model.preset=small", "model.dim=64", "model.layers=2", "model.heads=2"])
    assert adopt(same).model == generator.config.model, "the same size under another name"
    start, end = generator.module.model.state_dict(), tuned.module.model.state_dict()
    assert start.keys() == end.keys() and before.isfinite().all()
    moved = (start["blocks.0.qkv.weight"] - end["blocks.0.qkv.weight"]).abs().max()
    assert 0 < moved < 0.02, "it went on from the imported weights"


def test_files_that_are_refused(tmp_path):
    vq, gpt = published_vq(32, 50, 8), published()
    torch.save({"model": vq}, tmp_path / "vq.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "vq.pt").read_bytes()[:5000])
    for path, message in {"torn.pt": "is damaged or holds more than tensors", "none.pt": "does not exist"}.items():
        with pytest.raises(InputError, match=message):
            read_published(str(tmp_path / path))
    with pytest.raises(InputError, match="no LlamaGen VQ tokenizer: it holds no matrix quantize"):
        llamagen_vq(gpt)
    with pytest.raises(InputError, match=r"tensor decoder.mid.1.k.bias \(128,\) is missing"):
        llamagen_vq({name: tensor for name, tensor in vq.items() if name != "decoder.mid.1.k.bias"})
    for kinds in (7, 12):
        state = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes(17, kinds, 64, 2).items()}
        with pytest.raises(InputError, match=f"gpt.pt knows {kinds} classes, and the data has 10"):
            IMPORTS["llamagen-gpt"](state, "gpt.pt", ["model.heads=2", "data.name=digits", "tokenizer.name=levels"])
    module = IMPORTS["llamagen-vq"](read_published(str(tmp_path / "vq.pt")), "vq.pt", [])
    save_checkpoint(module, tmp_path / "vq.ckpt", str(tmp_path / "vq.pt"))
    options = {"name": "llamagen_vq", "codebook": 50, "width": 32, "downsample": 8}
    tokenizer = load_tokenizer(TokenizerConfig(**options, checkpoint=str(tmp_path / "vq.ckpt")))
    assert torch.equal(tokenizer.state_dict()["quant_conv.bias"], vq["quant_conv.bias"])
