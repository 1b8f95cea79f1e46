"""Published autoencoders of VQGAN's shape, in our layout: VAR's tokenizer, and the one that DiT draws latents of.

Legend: V codes, C channels of a code.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from radar.config.options import TokenizerConfig
from radar.errors import InputError
from radar.model.published import check_shapes, layers_of, matrix
from radar.tokenizers import build_tokenizer

ATTENTION = ("q", "k", "v")


def var_tokenizer(
    state: Mapping[str, Tensor], sides: Sequence[int] | None = None
) -> tuple[TokenizerConfig, dict[str, Tensor]]:
    """Turn VAR's tokenizer into a tokenizer configuration and state dict.

    Published names: `encoder` and `decoder` with `conv_in`, at every resolution
    `{down,up}.i.block.j.{norm1,conv1,norm2,conv2,nin_shortcut}` and `{down,up}.i.{downsample,upsample}.conv`, at the
    lowest `{down,up}.i.attn.j.{norm,qkv,proj_out}`, `mid.{block_1,attn_1,block_2}`, `norm_out`, `conv_out`;
    `quant_conv`, `post_quant_conv`; `quantize.embedding.weight` (V, C), `quantize.quant_resi.qresi_ls.k`,
    `quantize.ema_vocab_hit_SV`, a record of its training. `sides` are by default those of 256x256 pixels.

    Raises InputError where a tensor is missing, unknown or of another shape.
    """
    codes, _ = matrix(state, "quantize.embedding.weight", "VAR tokenizer")
    width = state["encoder.conv_in.bias"].shape[0] if "encoder.conv_in.bias" in state else 0
    config = TokenizerConfig(name="var_vae", codebook=codes, width=width, sides=None if sides is None else list(sides))
    prefixes = {"encoder.": "encoder.0.", "quant_conv.": "encoder.1."}
    prefixes |= {"post_quant_conv.": "decoder.0.", "decoder.": "decoder.1."}
    prefixes |= {"quantize.embedding.": "quantiser.quantiser.codes."}
    prefixes |= {"quantize.quant_resi.qresi_ls.": "quantiser.smoothers."}
    own = {name: tensor for name, tensor in state.items() if name != "quantize.ema_vocab_hit_SV"}
    return config, _ours(own, prefixes, config)


def kl_autoencoder(state: Mapping[str, Tensor], patch: int = 1) -> tuple[TokenizerConfig, dict[str, Tensor]]:
    """Turn the autoencoder `kl-f8` (latent diffusion, arXiv 2112.10752; sd-vae-ft) into configuration and state dict.

    Published names are those of `var_tokenizer`, but for `attn_1.{q,k,v}`, and no attention but in the middle; without
    a quantiser. Others, of its discriminator, are left out. A cell is a square of `patch` latent pixels.

    Raises InputError where a tensor is missing, unknown or of another shape.
    """
    state = {name: tensor for name, tensor in state.items() if not name.startswith(("loss.", "model_ema."))}
    if "encoder.conv_in.bias" not in state or "quant_conv.bias" not in state:
        raise InputError("this is no autoencoder of latent diffusion: it holds no tensor encoder.conv_in.bias")
    config = TokenizerConfig(name="kl_vae", width=state["encoder.conv_in.bias"].shape[0], downsample=8 * patch)
    prefixes = {"encoder.": "encoder.0.", "quant_conv.": "encoder.1."}
    prefixes |= {"post_quant_conv.": "decoder.1.", "decoder.": "decoder.2."}
    return config, _ours(state, prefixes, config)


def _ours(state: Mapping[str, Tensor], prefixes: Mapping[str, str], config: TokenizerConfig) -> dict[str, Tensor]:
    """The tensors by our names, which must be those of this tokenizer."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        theirs = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        own = prefixes.get(theirs, "") + name.removeprefix(theirs)
        ours |= _named(own, tensor, levels=layers_of(state, "decoder.up."))
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in build_tokenizer(config).state_dict().items()}
    check_shapes(ours, shapes)
    return ours


RENAMED = (
    (".block.", ".res."), (".mid.block_1.", ".mid.0."), (".mid.attn_1.", ".mid.1."), (".mid.block_2.", ".mid.2."),
    (".down.", ".conv_blocks."),
)  # fmt: skip


def _named(name: str, tensor: Tensor, levels: int) -> dict[str, Tensor]:
    """A tensor by our name of its layer; queries, keys and values by one each."""
    for old, new in RENAMED:
        name = name.replace(old, new)
    if ".up." in name:  # theirs are numbered from the highest resolution
        before, _, after = name.partition(".up.")
        number, _, rest = after.partition(".")
        name = f"{before}.conv_blocks.{levels - 1 - int(number)}.{rest}"
    if ".qkv." in name:
        return {name.replace(".qkv.", f".{part}."): each for part, each in zip(ATTENTION, tensor.chunk(3), strict=True)}
    return {name: tensor}
