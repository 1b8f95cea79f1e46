"""The parallel sampler, its guidance and its cost on paper."""
