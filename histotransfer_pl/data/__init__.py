"""Datamodules: cohorts, splits, bags of features, batches of patches."""
