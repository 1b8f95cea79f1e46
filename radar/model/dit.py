"""DiT's published weights (arXiv 2212.09748), in our layout.

Legend: N cells, P pixels of a latent image per cell and side, c channels of that image, C = c P^2 channels of a cell,
L layers, D width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from radar.config.options import ModelConfig
from radar.errors import InputError
from radar.model.published import check_shapes, layers_of, matrix

HEAD_WIDTHS = {384: 64, 768: 64, 1024: 64, 1152: 72}  # D: that of a head, of sizes S, B, L, XL
SCALE = 0.18215  # by which latents of the published autoencoder are multiplied
WAVES = 256


def dit_denoiser(
    state: Mapping[str, Tensor], channels: int, heads: int | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Turn DiT's network into a model configuration and our state dict, that of a denoiser of vectors.

    Published names, for every layer i of L: `x_embedder.proj` (D, c, P, P), `t_embedder.mlp.{0,2}`,
    `y_embedder.embedding_table`, `pos_embed` (1, N, D), `blocks.i.{attn.qkv,attn.proj,mlp.fc1,mlp.fc2}`,
    `blocks.i.adaLN_modulation.1`, `final_layer.linear` (2 c P^2, D), `final_layer.adaLN_modulation.1`.

    A cell is a square of P x P pixels of the latent image, its C channels those of the image in turn, each row by row.

    Args:
        state: the published tensors.
        channels: C of the tokenizer.
        heads: by default those of the published size of this width, or else one per 64 features.

    Raises InputError where a tensor is missing, unknown or of another shape.
    """
    wide = "final_layer.linear.weight"
    outputs, dim = matrix(state, wide, "DiT")
    labels, _ = matrix(state, "y_embedder.embedding_table.weight", "DiT")
    entry = state.get("x_embedder.proj.weight")
    if entry is None or entry.ndim != 4 or entry[0].numel() != channels or outputs not in (channels, 2 * channels):
        given = "none" if entry is None else "x".join(map(str, entry.shape[1:]))
        raise InputError(f"cells of this DiT hold {given} numbers, and those of the tokenizer {channels}")
    image, side = entry.shape[1], entry.shape[2]
    layers, cells = layers_of(state, "blocks."), state["pos_embed"].shape[1] if "pos_embed" in state else 0
    check_shapes(state, _shapes(labels, image, side, outputs, cells, dim, layers))

    def by_channel(x: Tensor) -> Tensor:
        """Rows of the last layer, pixel by pixel there, channel by channel here."""
        return x.view(side, side, -1, *x.shape[1:]).movedim(2, 0).reshape(x.shape)

    ours = {
        "entry.weight": entry.flatten(1),
        "entry.bias": state["x_embedder.proj.bias"],
        "labels.weight": state["y_embedder.embedding_table.weight"],
        "positions.weight": state["pos_embed"][0],
        "space.mean": torch.zeros(channels),
        "space.deviation": torch.full((channels,), 1 / SCALE),
    }
    for kind in ("weight", "bias"):
        ours |= {f"time.{i}.{kind}": state[f"t_embedder.mlp.{i}.{kind}"] for i in (0, 2)}
        ours[f"head.{kind}"] = by_channel(state[f"final_layer.linear.{kind}"])
        ours[f"conditioning.linear.{kind}"] = state[f"final_layer.adaLN_modulation.1.{kind}"]
        for i in range(layers):
            for mine, theirs in NAMES.items():
                ours[f"blocks.{i}.{mine}.{kind}"] = state[f"blocks.{i}.{theirs}.{kind}"]
    heads = heads or max(1, dim // HEAD_WIDTHS.get(dim, 64))
    config = ModelConfig(
        dim=dim, layers=layers, heads=heads, trunk="vit", qk_norm=False, conditioning="adaln", positions="learned"
    )
    return config, ours


NAMES = {
    "qkv": "attn.qkv", "out": "attn.proj", "gate_up": "mlp.fc1", "down": "mlp.fc2",
    "conditioning.linear": "adaLN_modulation.1",
}  # fmt: skip


def _shapes(
    labels: int, image: int, side: int, outputs: int, cells: int, dim: int, layers: int
) -> dict[str, tuple[int, ...]]:
    linear: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (dim, image, side, side), "t_embedder.mlp.0": (dim, WAVES), "t_embedder.mlp.2": (dim, dim),
        "final_layer.linear": (outputs, dim), "final_layer.adaLN_modulation.1": (2 * dim, dim),
    }  # fmt: skip
    for i in range(layers):
        sizes = zip(NAMES.values(), ((3, 1), (1, 1), (4, 1), (1, 4), (6, 1)), strict=True)
        linear |= {f"blocks.{i}.{name}": (rows * dim, columns * dim) for name, (rows, columns) in sizes}
    shapes = {"y_embedder.embedding_table.weight": (labels, dim), "pos_embed": (1, cells, dim)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes
