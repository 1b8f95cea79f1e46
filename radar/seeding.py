"""Independent random streams as pure functions of integers, so that no draw depends on batch size or process."""

import numpy as np
import torch


def derive(*parts: int) -> int:
    """Mix integers (seed, index, ...) into one 63-bit seed; different parts give unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*parts: int) -> torch.Generator:
    """Build a CPU generator seeded from `parts`."""
    return torch.Generator().manual_seed(derive(*parts))
