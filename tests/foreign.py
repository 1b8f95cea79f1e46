"""Transformers of others that decode slots: as in docs/learn/own_transformer.md; the tests train and sample them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radar.attention import NONE, Slots


class PlainTransformer(nn.Module):
    """As LlamaGen's: tokens in, next tokens out; made of PyTorch's own layers. Keeps nothing between passes."""

    def __init__(self, vocabulary: int, classes: int, cells: int, dim: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.classes = classes
        self.token, self.label = nn.Embedding(vocabulary + 1, dim), nn.Embedding(classes + 1, dim)
        self.own, self.asked = nn.Embedding(cells + 1, dim), nn.Embedding(cells + 1, dim)
        layer = nn.TransformerEncoderLayer(dim, 2, 4 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.trunk = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, slots: Slots, tokens: Tensor, labels: Tensor, permutation: Tensor, mask: Tensor | None) -> Tensor:
        return self.head(self.trunk(self.embed(slots, tokens, labels, permutation), ~mask)[:, slots.predictions.first])

    def embed(self, slots: Slots, tokens: Tensor, labels: Tensor, permutation: Tensor) -> Tensor:
        """The token or "what is here?", which cell it is, and which cell is to be predicted; cell N is none."""
        cells = F.pad(permutation, (0, 1), value=self.own.num_embeddings - 1)  # so that rank -1 is none
        content = torch.where(slots.is_token, tokens, self.token.num_embeddings - 1)
        x = self.token(content) + self.own(cells[slots.rank]) + self.asked(cells[slots.position])
        return torch.where((slots.rank == NONE)[:, None], self.label(labels)[:, None], x)


class LlamaCache:
    """Keys and values of a Hugging Face model."""

    def __init__(self) -> None:
        from transformers import DynamicCache

        self.kept = DynamicCache()

    def rewind(self, slots: int) -> None:
        if (more := self.kept.get_seq_length() - slots) > 0:
            self.kept.crop(-more)


class Llama(PlainTransformer):
    """Hugging Face's LlamaModel, with its rotary positions by cell and its own cache."""

    def __init__(self, vocabulary: int, classes: int, cells: int, dim: int = 32, layers: int = 2) -> None:
        from transformers import LlamaConfig, LlamaModel

        super().__init__(vocabulary, classes, cells, dim, layers)
        self.trunk = LlamaModel(
            LlamaConfig(vocab_size=1, hidden_size=dim, intermediate_size=2 * dim, num_hidden_layers=layers,
                        num_attention_heads=2, attn_implementation="sdpa")
        )  # fmt: skip

    def empty_cache(self, images: int, slots: int, dtype: torch.dtype | None) -> LlamaCache:
        return LlamaCache()

    def forward(self, slots, tokens, labels, permutation, mask, cache=None):
        x = self.embed(slots, tokens, labels, permutation)
        kept = None if cache is None else cache.kept
        seen = len(slots) + (0 if kept is None else kept.get_seq_length())
        mask = torch.ones(len(slots), seen, dtype=torch.bool) if mask is None else mask
        place = F.pad(permutation + 1, (0, 1))[slots.rank].expand(len(x), -1)
        out = self.trunk(
            inputs_embeds=x, attention_mask=mask.expand(len(x), 1, -1, -1), position_ids=place, past_key_values=kept,
            use_cache=kept is not None,
        )  # fmt: skip
        return self.head(out.last_hidden_state[:, slots.predictions.first])
