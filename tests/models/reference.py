"""The heads again in NumPy, one bag at a time: slow, and independent of the packed kernels."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum())


def linear(inputs: Array, weights: Weights, name: str) -> Array:
    return np.asarray(inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])


def trunk(bag: Array, weights: Weights) -> Array:
    layers = sorted({int(key.split(".")[1]) for key in weights if key.startswith("trunk.")})
    for layer in layers:
        bag = np.maximum(linear(bag, weights, f"trunk.{layer}"), 0)
    return bag


def attention_scores(patches: Array, weights: Weights) -> Array:
    scored = np.tanh(linear(patches, weights, "attention_hidden"))
    if "attention_gate.weight" in weights:
        scored = scored / (1 + np.exp(-linear(patches, weights, "attention_gate")))
    return linear(scored, weights, "attention_score")[:, 0]


def slide_logits(bag: Array, weights: Weights, pooling: str) -> Array:
    patches = trunk(bag, weights)
    if pooling == "attention":
        pooled = softmax(attention_scores(patches, weights)) @ patches
    elif pooling == "mean":
        pooled = patches.mean(0)
    else:
        pooled = patches.max(0)
    return linear(pooled, weights, "slide_classifier")
