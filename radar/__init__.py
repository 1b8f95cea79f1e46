"""The library: orders, attention variants, transformer, tokenizers, sampler, metrics, LightningModules."""
