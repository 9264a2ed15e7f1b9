"""Networks on bags of patch features: pooling and heads."""
