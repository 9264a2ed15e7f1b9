"""Programs that measure ratios: the project against the plain way of doing the same."""
