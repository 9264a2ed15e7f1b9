"""Frozen, typed facts that travel: what an encoder, a grid, a split and a run are."""
