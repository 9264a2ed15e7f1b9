"""The Zarr store of a cohort: coordinates, features and attention, row by row."""
