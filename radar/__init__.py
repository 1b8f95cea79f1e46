"""The library: orders, attention variants, transformer, tokenizers, sampler, metrics, LightningModules."""

__version__ = "0.1.0"
