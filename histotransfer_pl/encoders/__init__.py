"""Patch encoders: catalogue, weights, truncation, cost."""
