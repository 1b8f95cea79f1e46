"""Trained generators for others: folders of safetensors with a card."""
