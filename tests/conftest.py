"""One thread: bit-identical runs, and no two tests that fight over the cores."""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # read at the first import

import torch

torch.set_num_threads(1)
