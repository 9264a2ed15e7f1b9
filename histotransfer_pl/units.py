"""Names for lengths and places, so that a signature says in which frame a number is.

A whole-slide image has several frames: *level-0 pixels* address a place, *patch pixels* count
the pixels an encoder sees, *micrometres per pixel* (mpp) join the two to the tissue.
"""

from typing import NewType

Level0Px = NewType("Level0Px", int)
"""A length or coordinate in pixels of the slide's level 0 (its highest resolution)."""

PatchPx = NewType("PatchPx", int)
"""A length in pixels of a patch, after resampling to the patch's mpp."""

Micrometres = NewType("Micrometres", float)
"""A length on the tissue."""

Mpp = NewType("Mpp", float)
"""Micrometres per pixel: the resolution of a level, a patch or a thumbnail."""
