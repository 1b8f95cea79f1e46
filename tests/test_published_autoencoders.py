"""Published autoencoders of VQGAN's shape, VAR's and latent diffusion's: computed again in float64.

Both were also compared with their repositories, whose code is not here (docs/methods.md).
"""

import math

import pytest
import torch
import torch.nn.functional as F

from radar.decoding.rings import VAR_SIDES
from radar.errors import InputError
from radar.model.autoencoders import kl_autoencoder, var_tokenizer
from radar.tokenizers import build_tokenizer
from radar.tokenizers.var_vae import SIDES as VAE_SIDES
from tests.test_published import Computed

SIDES = (1, 2, 3, 4)
CELLS = sum(side**2 for side in SIDES)
VOCABULARY, CODE = 40, 32
State = dict[str, torch.Tensor]


def drawn(shapes: dict[str, tuple[int, ...]]) -> State:
    """Random tensors: matrices by their number of inputs, vectors small."""
    random = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return {name: x / math.prod(x.shape[1:]) ** 0.5 if x.ndim > 1 else 0.3 * x for name, x in made.items()}


def linear(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Weight and bias of each."""
    weights = {f"{name}.weight": shape for name, shape in shapes.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in shapes.items()}


def halves_shapes(
    multiples: tuple[int, ...], inner: int, latent: int, kernel: int, attends: bool
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of VQGAN's encoder and decoder as latent diffusion names them, without .weight and .bias."""
    width, last = 32, len(multiples) - 1
    sizes, shapes = [width * m for m in multiples], dict[str, tuple[int, ...]]()
    parts = {"qkv": 3} if attends else {"q": 1, "k": 1, "v": 1}

    def residual(name: str, a: int, b: int) -> None:
        shapes.update({f"{name}.norm1": (a,), f"{name}.conv1": (b, a, 3, 3), f"{name}.norm2": (b,)})
        shapes.update({f"{name}.conv2": (b, b, 3, 3)} | ({f"{name}.nin_shortcut": (b, a, 1, 1)} if a != b else {}))

    def attention(name: str, a: int) -> None:
        shapes.update({f"{name}.norm": (a,), f"{name}.proj_out": (a, a, 1, 1)})
        shapes.update({f"{name}.{part}": (rows * a, a, 1, 1) for part, rows in parts.items()})

    for half, kind, blocks, scale in (("encoder", "down", 2, "downsample"), ("decoder", "up", 3, "upsample")):
        for i, size in enumerate(sizes):  # from the highest resolution
            before = ([width, *sizes] if half == "encoder" else [*sizes[1:], sizes[-1]])[i]
            for j in range(blocks):
                residual(f"{half}.{kind}.{i}.block.{j}", before if j == 0 else size, size)
                if attends and i == last:
                    attention(f"{half}.{kind}.{i}.attn.{j}", size)
            if i < last if half == "encoder" else i > 0:
                shapes[f"{half}.{kind}.{i}.{scale}.conv"] = (size, size, 3, 3)
        residual(f"{half}.mid.block_1", sizes[-1], sizes[-1])
        attention(f"{half}.mid.attn_1", sizes[-1])
        residual(f"{half}.mid.block_2", sizes[-1], sizes[-1])
    shapes |= {"encoder.conv_in": (width, 3, 3, 3), "encoder.norm_out": (sizes[-1],)}
    shapes |= {"encoder.conv_out": (inner, sizes[-1], 3, 3), "decoder.conv_in": (sizes[-1], latent, 3, 3)}
    shapes |= {"decoder.norm_out": (width,), "decoder.conv_out": (3, width, 3, 3)}
    shapes |= {"quant_conv": (inner, inner, kernel, kernel), "post_quant_conv": (latent, latent, kernel, kernel)}
    return shapes


def near_one(state: State) -> State:
    """Weights of norms are about 1."""
    return {name: 1 + x if name.endswith("weight") and x.ndim == 1 else x for name, x in state.items()}


def vae_state() -> State:
    """Random weights under the names of VAR's tokenizer."""
    shapes = halves_shapes((1, 1, 2, 2, 4), CODE, CODE, kernel=3, attends=True)
    shapes |= {f"quantize.quant_resi.qresi_ls.{k}": (CODE, CODE, 3, 3) for k in range(4)}
    plain = {"quantize.embedding.weight": (VOCABULARY, CODE), "quantize.ema_vocab_hit_SV": (len(SIDES), VOCABULARY)}
    return near_one(drawn(linear(shapes) | plain))


def kl_state() -> State:
    """Random weights under the names of latent diffusion's autoencoder kl-f8."""
    return near_one(drawn(linear(halves_shapes((1, 2, 4, 4), 8, 4, kernel=1, attends=False))))


class ComputedVAE(Computed):
    """VQGAN as latent diffusion and VAR name it, written out with plain functions."""

    def __init__(self, state: State, levels: int) -> None:
        super().__init__(state, 16)
        self.levels = levels

    def attention(self, name, x):
        if f"{name}.q.weight" in self.w:
            return super().attention(name, x)
        q, k, v = self.conv(f"{name}.qkv", self.norm(f"{name}.norm", x)).flatten(2).chunk(3, 1)
        weights = (torch.einsum("bdi,bdj->bij", q, k) / q.shape[1] ** 0.5).softmax(-1)
        return x + self.conv(f"{name}.proj_out", torch.einsum("bij,bdj->bdi", weights, v).view(x.shape))

    def middle(self, half, x):
        x = self.attention(f"{half}.mid.attn_1", self.residual(f"{half}.mid.block_1", x))
        return self.residual(f"{half}.mid.block_2", x)

    def level(self, name, x):
        for j in range(2 if ".down." in name else 3):
            x = self.residual(f"{name}.block.{j}", x)
            x = self.attention(f"{name}.attn.{j}", x) if f"{name}.attn.{j}.qkv.weight" in self.w else x
        return x

    def latents(self, pixels):
        x = self.conv("encoder.conv_in", pixels, padding=1)
        for i in range(self.levels):
            x = self.level(f"encoder.down.{i}", x)
            if i < self.levels - 1:
                x = self.conv(f"encoder.down.{i}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        return self.conv("quant_conv", self.last("encoder", self.middle("encoder", x)), padding="same")

    def pixels(self, latents):
        x = self.conv("decoder.conv_in", self.conv("post_quant_conv", latents, padding="same"), padding=1)
        x = self.middle("decoder", x)
        for i in reversed(range(self.levels)):
            x = self.level(f"decoder.up.{i}", x)
            if i:
                x = self.conv(
                    f"decoder.up.{i}.upsample.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1
                )
        return self.last("decoder", x)

    def scales(self, latents):
        """Tokens of all scales, and the sum of what they give."""
        rest, total, tokens = latents.clone(), torch.zeros_like(latents), []
        for k, side in enumerate(SIDES):
            seen = F.interpolate(rest, (side, side), mode="area").flatten(2).transpose(1, 2)
            codes = self.w["quantize.embedding.weight"]
            tokens.append(torch.cdist(seen, codes.expand(len(seen), -1, -1)).argmin(-1))
            x = codes[tokens[-1]].transpose(1, 2).unflatten(2, (side, side))
            x = F.interpolate(x, latents.shape[2:], mode="bicubic")
            share = (k / 3, *(1 / 12 + i * 10 / 36 for i in range(4)))
            nearest = min(range(4), key=lambda i: abs(share[1 + i] - share[0]))
            x = 0.5 * x + 0.5 * self.conv(f"quantize.quant_resi.qresi_ls.{nearest}", x, padding=1)
            rest, total = rest - x, total + x
        return torch.cat(tokens, 1), total


def test_vars_tokenizer_computes_what_was_published():
    state = vae_state()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = ComputedVAE(state, 5)
    latents = expected.latents(images.double() / 127.5 - 1)
    some = latents.flatten(2).transpose(1, 2).flatten(0, 1)
    state["quantize.embedding.weight"] = torch.cat([some, some / 3])[:VOCABULARY].float()  # near to what there is
    expected = ComputedVAE(state, 5)
    config, ours = var_tokenizer(state, SIDES)
    assert (config.name, config.codebook, config.width, config.sides) == ("var_vae", VOCABULARY, 32, list(SIDES))
    tokenizer = build_tokenizer(config).eval()
    tokenizer.load_state_dict(ours)  # strict
    tokens, total = expected.scales(latents)
    assert torch.equal(tokenizer.encode(images), tokens) and len(tokens.unique()) > 10
    with torch.no_grad():
        *_, found = tokenizer.reader.sums(tokens)
        assert torch.allclose(found.double(), total, atol=1e-4)
        assert torch.allclose(tokenizer.decoder(found).double(), expected.pixels(total), atol=1e-3)
    assert tokenizer.decode(tokens, (1, CELLS)).shape == images.shape and VAE_SIDES == VAR_SIDES


@pytest.mark.parametrize("patch", [1, 2])
def test_the_autoencoder_of_latent_diffusion_computes_what_was_published(patch):
    state = kl_state() | {"loss.logvar": torch.zeros(1)}
    config, ours = kl_autoencoder(state, patch)
    assert (config.name, config.width, config.downsample) == ("kl_vae", 32, 8 * patch)
    tokenizer, side = build_tokenizer(config).eval(), 8 // patch
    tokenizer.load_state_dict(ours)  # strict
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = ComputedVAE(state, 4)
    mean = expected.latents(images.double() / 127.5 - 1)[:, :4]
    cells = mean.unfold(2, patch, patch).unfold(3, patch, patch).movedim(1, 3).flatten(3).flatten(1, 2)
    found = tokenizer.encode(images)
    assert torch.allclose(found.double(), cells, atol=1e-4) and mean.std() > 0.1
    restored = tokenizer.decode(found, (side, side))
    pixels = (expected.pixels(mean) + 1) * 127.5
    assert (restored.double() - pixels.clamp(0, 255)).abs().max() < 0.51
    with pytest.raises(InputError, match="this is no autoencoder of latent diffusion"):
        kl_autoencoder({})
