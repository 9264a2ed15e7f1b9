"""Plans of many runs."""
