"""Independent random streams as pure functions of integers, so that no draw depends on batch size or process."""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a stream of random numbers is for; the first part of its seed."""

    DATA = 1  # order of the training images
    STEP = 2  # label dropout, corruption, dropout of one training batch
    ORDER = 3  # orders that are redrawn for every image
    SAMPLE = 4  # one image of the sampler
    TUNE = 5  # choice and scoring of sampling options
    CHOICE = 6  # which cells of one image come first
    IMAGE_ORDER = 7  # the order that one image of the sampler is decoded in
    AUGMENT = 8  # which views of the training images a batch has
    HOLE = 9  # where the hole of one image is
    VALIDATION = 10  # noise that a held-out image is validated with
    ALIGN = 11  # directions of an encoder's features


def derive(*parts: int) -> int:
    """Mix integers (stream, seed, index, ...) into one 63-bit seed; other parts, or more of them, another stream."""
    # SeedSequence takes (5, 2) and (5, 2, 0) for the same, hence the count.
    return int(np.random.SeedSequence([len(parts), *parts]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*parts: int) -> torch.Generator:
    """Build a CPU generator seeded from `parts`."""
    return torch.Generator().manual_seed(derive(*parts))
