"""Whole-slide images: reader, tissue mask, patch grid, painted slides. Knows nothing of torch."""
