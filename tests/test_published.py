"""Published weights: computed again from the published architecture, in float64."""

import math

import pytest
import torch

from radar.attention import VARIANTS
from radar.config import ModelConfig
from radar.errors import InputError
from radar.published import llamagen_gpt
from radar.transformer import Transformer, feed_forward_width

DIM, LAYERS, HEADS, VOCABULARY, CLASSES, SIDE = 256, 2, 4, 50, 5, 3


def shapes(vocabulary: int, classes: int, dim: int, layers: int) -> dict[str, tuple[int, ...]]:
    """LlamaGen's names and shapes, without `.weight`."""
    hidden = feed_forward_width(dim)
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
