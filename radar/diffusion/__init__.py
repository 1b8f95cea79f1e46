"""Generating by diffusion: the process, the network that undoes it, and how images are drawn."""
