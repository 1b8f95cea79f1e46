"""VAR's published weights (arXiv 2404.02905), in our layout.

Legend: N cells of all scales, K scales, V codes, C channels of a code, L layers, D width, H heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from radar.config.options import ModelConfig
from radar.model.published import check_shapes, layers_of, matrix

BUFFERS = ("lvl_1L", "attn_bias_for_masking")  # of the published file, that follow from the sides
EFFECTS = ("gate1", "gate2", "scale1", "scale2", "shift1", "shift2")  # in the order in which VAR has them
OURS = ("shift1", "scale1", "gate1", "shift2", "scale2", "gate2")


def var_transformer(state: Mapping[str, Tensor], sides: Sequence[int]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Turn VAR's transformer into a model configuration and our state dict.

    Published names, for every layer i of L: `word_embed`, `class_emb`, `pos_start`, `pos_1LC` (1, N, D), `lvl_embed`,
    `blocks.i.attn.{scale_mul_1H11,mat_qkv,q_bias,v_bias,zero_k_bias,proj}`, `blocks.i.ffn.{fc1,fc2}`,
    `blocks.i.ada_lin.1`, or, where all blocks share one (d36), `shared_ada_lin.1` and `blocks.i.ada_gss`;
    `head_nm.ada_lin.1`, `head`.

    It decodes scales under `block_causal`. Embeddings of levels are added to those of cells, and that of the start to
    the first; a layer that all blocks share is written out for each. No slot carries a token: their embeddings are 0.

    Args:
        state: the published tensors.
        sides: of the scales, of its tokenizer; N is the sum of their squares.

    Raises InputError where a tensor is missing, unknown or of another shape.
    """
    state = {name: tensor for name, tensor in state.items() if name not in BUFFERS}
    vocabulary, dim = matrix(state, "head.weight", "VAR transformer")
    labels, _ = matrix(state, "class_emb.weight", "VAR transformer")
    _, code = matrix(state, "word_embed.weight", "VAR transformer")
    layers, scale = layers_of(state, "blocks."), state.get("blocks.0.attn.scale_mul_1H11")
    heads = dim // 64 if scale is None else scale.shape[1]
    shared = "shared_ada_lin.1.weight" in state
    cells = sum(side**2 for side in sides)
    check_shapes(state, _shapes(vocabulary, labels, code, cells, len(sides), dim, layers, heads, shared))
    levels = torch.arange(len(sides)).repeat_interleave(torch.tensor([side**2 for side in sides]))
    positions = state["pos_1LC"][0] + state["lvl_embed.weight"][levels]
    positions[0] += state["pos_start"][0, 0]
    ours = {
        "tokens.weight": torch.zeros(vocabulary, dim),
        "labels.weight": state["class_emb.weight"],
        "query": torch.zeros(dim),
        "positions.weight": positions,
        "hint.weight": state["word_embed.weight"],
        "hint.bias": state["word_embed.bias"],
        "head.weight": state["head.weight"],
        "head.bias": state["head.bias"],
    }
    for kind in ("weight", "bias"):
        scaled, shifted = state[f"head_nm.ada_lin.1.{kind}"].chunk(2)
        ours[f"conditioning.linear.{kind}"] = torch.cat([shifted, scaled])
    for i in range(layers):
        ours |= {f"blocks.{i}.{name}": tensor for name, tensor in _block(state, i, shared).items()}
    made = ModelConfig(trunk="vit", cosine_attention=True, conditioning="adaln", positions="learned")
    return replace(made, dim=dim, layers=layers, heads=heads), ours


def _block(state: Mapping[str, Tensor], i: int, shared: bool) -> dict[str, Tensor]:
    """Our names of the tensors of layer i."""
    theirs = f"blocks.{i}."
    q, v = state[f"{theirs}attn.q_bias"], state[f"{theirs}attn.v_bias"]
    ours = {
        "qkv.weight": state[f"{theirs}attn.mat_qkv.weight"],
        "qkv.bias": torch.cat([q, torch.zeros_like(q), v]),
        "q_norm.scale": state[f"{theirs}attn.scale_mul_1H11"].flatten(),
    }
    for mine, other in (("out", "attn.proj"), ("gate_up", "ffn.fc1"), ("down", "ffn.fc2")):
        ours |= {f"{mine}.{kind}": state[f"{theirs}{other}.{kind}"] for kind in ("weight", "bias")}
    source = "shared_ada_lin.1." if shared else f"{theirs}ada_lin.1."
    weight, bias = state[f"{source}weight"], state[f"{source}bias"]
    if shared:
        bias = bias + state[f"{theirs}ada_gss"].flatten()
    for name, tensor in (("weight", weight), ("bias", bias)):
        parts = dict(zip(EFFECTS, tensor.chunk(6), strict=True))
        ours[f"conditioning.linear.{name}"] = torch.cat([parts[part] for part in OURS])
    return ours


def _shapes(
    vocabulary: int, labels: int, code: int, cells: int, scales: int, dim: int, layers: int, heads: int, shared: bool
) -> dict[str, tuple[int, ...]]:
    linear = {"word_embed": (dim, code), "head": (vocabulary, dim), "head_nm.ada_lin.1": (2 * dim, dim)}
    shapes: dict[str, tuple[int, ...]] = {
        "class_emb.weight": (labels, dim), "lvl_embed.weight": (scales, dim), "pos_1LC": (1, cells, dim),
        "pos_start": (1, 1, dim),
    }  # fmt: skip
    if shared:
        linear["shared_ada_lin.1"] = (6 * dim, dim)
    for i in range(layers):
        block = f"blocks.{i}."
        shapes |= {
            f"{block}attn.scale_mul_1H11": (1, heads, 1, 1),
            f"{block}attn.mat_qkv.weight": (3 * dim, dim),
            **{f"{block}attn.{name}": (dim,) for name in ("q_bias", "v_bias", "zero_k_bias")},
        }
        linear |= {
            f"{block}attn.proj": (dim, dim), f"{block}ffn.fc1": (4 * dim, dim), f"{block}ffn.fc2": (dim, 4 * dim)
        }  # fmt: skip
        if shared:
            shapes[f"{block}ada_gss"] = (1, 1, 6, dim)
        else:
            linear[f"{block}ada_lin.1"] = (6 * dim, dim)
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes
