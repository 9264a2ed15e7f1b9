"""Transfer learning on whole-slide images with PyTorch Lightning."""

__version__ = "0.1.0"
