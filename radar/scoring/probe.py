"""What a generator's features tell of the class: accuracy of a linear classifier of them, on held-out images.

The label that the generator is given is "none". Legend: M images, S slots, D width, C classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from radar.config.options import Config
from radar.data.batches import OrderedBatches
from radar.data.token_arrays import TokenSplit
from radar.data.tokens import cached_tokens
from radar.errors import InputError
from radar.training.checkpoints import Generator
from radar.training.generative import GenerativeModule
from radar.training.generator import GeneratorModule

RIDGE = 1e-2  # times the number of images: penalty on squared weights of standardised features [ours]
MOST = 10_000  # training images that are learned from, evenly spread


def check_probe(config: Config, module: GenerativeModule) -> None:
    """Raise InputError where a generator, trained or planned, has no features to ask: before any work."""
    if config.evaluate.probe and not isinstance(module, GeneratorModule):
        raise InputError("evaluate.probe=true needs a model of tokens: no diffusion")


def probe_columns(generator: Generator) -> dict[str, Any]:
    """Accuracy of a linear probe, if it is asked for."""
    module, config = generator.as_trained or generator.module, generator.config
    check_probe(config, module)
    if not config.evaluate.probe or not isinstance(module, GeneratorModule):
        return {}
    splits = cached_tokens(generator.data, generator.tokenizer, config.data.cache)
    (x, labels), (held_out, expected) = (features(module, splits[name]) for name in ("train", "held_out"))
    classes = len(generator.data.classes)
    return {"probe": float((classify(x, F.one_hot(labels, classes).double(), held_out) == expected).double().mean())}


def features(module: GeneratorModule, split: TokenSplit) -> tuple[Tensor, Tensor]:
    """Mean over the content's slots of what the middle block gives, or the aligned one: (M, D) and labels (M,)."""
    model, slots = module.model, module.slots
    layer = max(1, len(model.blocks) // 2) if module.alignment is None else module.alignment.layer
    content, found, labels, seen = (slots.is_token & (slots.rank >= 0)).nonzero()[:, 0], [], [], []
    hook = model.blocks[layer - 1].register_forward_hook(lambda _, __, given: seen.append(given))
    try:
        with torch.inference_mode():
            batches = OrderedBatches(split.gather, len(split), module.config.train.batch_size, min(MOST, len(split)))
            for batch in (batches[number] for number in range(len(batches))):
                none = torch.full_like(batch.labels, model.classes)
                module.nll(batch.inputs.to(module.device), none.to(module.device), images=batch.images)
                found.append(seen.pop()[:, content.to(module.device)].mean(1).double().cpu())
                labels.append(batch.labels)
    finally:
        hook.remove()
    return torch.cat(found), torch.cat(labels)


def classify(x: Tensor, wanted: Tensor, held_out: Tensor) -> Tensor:
    """Classes (M',) of features (M', D), by ridge regression of classes (M, C) on features (M, D)."""
    mean, deviation = x.mean(0), x.std(0) + 1e-8
    x, held_out = (x - mean) / deviation, (held_out - mean) / deviation
    gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, x.T @ (wanted - wanted.mean(0)))
    scores: Tensor = held_out @ weights + wanted.mean(0)
    return scores.argmax(1)
