"""One thread: bit-identical runs, and no two tests that fight over the cores."""

import torch

torch.set_num_threads(1)
