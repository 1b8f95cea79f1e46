"""LlamaGen's published weights, in our layout.

Legend: N cells, V vocabulary, C classes, D width, F feed-forward width, L layers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from radar.config.options import ModelConfig, TokenizerConfig
from radar.model.blocks import PRESETS
from radar.model.published import check_shapes, matrix
from radar.model.trunks import swiglu_width
from radar.tokenizers import build_tokenizer

HEAD = 64  # width of a head where no preset has this width and depth


def llamagen_gpt(
    state: Mapping[str, Tensor], grid: tuple[int, int], heads: int | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Turn LlamaGen's class-conditional GPT (arXiv 2406.06525) into a model configuration and our state dict.

    Published names and shapes, for every layer i of L:
    `tok_embeddings.weight` (V, D), `cls_embedding.embedding_table.weight` (C + 1, D), `norm.weight` (D),
    `output.weight` (V, D), `layers.i.attention_norm.weight`, `layers.i.ffn_norm.weight` (D),
    `layers.i.attention.wqkv.weight` (3 D, D), `layers.i.attention.wo.weight` (D, D),
    `layers.i.feed_forward.w1.weight` and `w3.weight` (F, D), `layers.i.feed_forward.w2.weight` (D, F).

    It decodes raster under `causal`. There are no embeddings of cells (ours are zero, so that other orders can be
    learned from here), no QK-norm, and the class token has no rotary position: its queries and keys are zero.

    Args:
        state: the published tensors.
        grid: (h, w) that it was trained for.
        heads: by default those of the preset with this width and depth, or else one per 64 features.

    Raises InputError where a tensor is missing, unknown or of another shape.
    """
    vocabulary, dim = matrix(state, "tok_embeddings.weight", "LlamaGen GPT")
    layers = len({name.split(".")[1] for name in state if name.startswith("layers.")})
    labels, _ = matrix(state, "cls_embedding.embedding_table.weight", "LlamaGen GPT")
    check_shapes(state, _llamagen_shapes(vocabulary, labels, dim, layers))
    known = [shape.heads for shape in PRESETS.values() if (shape.dim, shape.layers) == (dim, layers)]
    heads = heads or (known[0] if known else max(1, dim // HEAD))
    ours = {
        "tokens.weight": state["tok_embeddings.weight"],
        "labels.weight": state["cls_embedding.embedding_table.weight"],
        "query": torch.randn(dim, generator=torch.Generator().manual_seed(0)) * 0.02,
        "positions.weight": torch.zeros(grid[0] * grid[1], dim),
        "norm.weight": state["norm.weight"],
        "head.weight": state["output.weight"],
    }
    for i in range(layers):
        theirs = f"layers.{i}."
        gate, up = (state[f"{theirs}feed_forward.{w}.weight"] for w in ("w1", "w3"))
        ours |= {
            f"blocks.{i}.norm1.weight": state[f"{theirs}attention_norm.weight"],
            f"blocks.{i}.norm2.weight": state[f"{theirs}ffn_norm.weight"],
            f"blocks.{i}.qkv.weight": state[f"{theirs}attention.wqkv.weight"],
            f"blocks.{i}.out.weight": state[f"{theirs}attention.wo.weight"],
            f"blocks.{i}.gate_up.weight": torch.cat([gate, up]),
            f"blocks.{i}.down.weight": state[f"{theirs}feed_forward.w2.weight"],
        }
    return ModelConfig(dim=dim, layers=layers, heads=heads, qk_norm=False, class_position=False), ours


def _llamagen_shapes(vocabulary: int, labels: int, dim: int, layers: int) -> dict[str, tuple[int, ...]]:
    hidden = swiglu_width(dim)
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (vocabulary, dim),
        "cls_embedding.embedding_table.weight": (labels, dim),
        "norm.weight": (dim,),
        "output.weight": (vocabulary, dim),
    }
    for i in range(layers):
        shapes |= {
            f"layers.{i}.attention_norm.weight": (dim,),
            f"layers.{i}.ffn_norm.weight": (dim,),
            f"layers.{i}.attention.wqkv.weight": (3 * dim, dim),
            f"layers.{i}.attention.wo.weight": (dim, dim),
            f"layers.{i}.feed_forward.w1.weight": (hidden, dim),
            f"layers.{i}.feed_forward.w3.weight": (hidden, dim),
            f"layers.{i}.feed_forward.w2.weight": (dim, hidden),
        }
    return shapes


def llamagen_vq(state: Mapping[str, Tensor]) -> tuple[TokenizerConfig, dict[str, Tensor]]:
    """Turn LlamaGen's VQ-16 or VQ-8 (arXiv 2406.06525) into a tokenizer configuration and state dict.

    Published names are ours (radar/tokenizers/llamagen.py), and a record of training that is left out:
    `encoder` and `decoder` with `conv_in`, `conv_blocks.i.res.j.{norm1,conv1,norm2,conv2,nin_shortcut}`,
    `conv_blocks.i.attn.j.{norm,q,k,v,proj_out}` at the lowest resolution, `conv_blocks.i.{downsample,upsample}.conv`,
    `mid.{0,1,2}`, `norm_out`, `conv_out`; `quant_conv`, `post_quant_conv`; `quantize.embedding.weight` (V, 8),
    `quantize.codebook_used`. Five resolutions are VQ-16, four VQ-8.

    Raises InputError where a tensor is missing, unknown or of another shape.
    """
    codes, _ = matrix(state, "quantize.embedding.weight", "LlamaGen VQ tokenizer")
    levels = len({name.split(".")[2] for name in state if name.startswith("encoder.conv_blocks.")})
    width = state["encoder.conv_in.bias"].shape[0] if "encoder.conv_in.bias" in state else 0
    config = TokenizerConfig(name="llamagen_vq", codebook=codes, width=width, downsample=2 ** (levels - 1))
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in build_tokenizer(config).state_dict().items()}
    ours = {name: tensor for name, tensor in state.items() if name != "quantize.codebook_used"}
    check_shapes(ours, shapes)
    return config, ours
