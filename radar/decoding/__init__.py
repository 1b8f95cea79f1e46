"""Decoding orders: which cell comes when, what that costs in nats, and orders that change from image to image."""
