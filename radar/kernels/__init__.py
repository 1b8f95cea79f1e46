"""Faster ways to compute the same: laid-out weights, kernels of our own, recorded passes."""
