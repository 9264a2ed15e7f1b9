"""Campaigns of faults: damage is drawn by seed, and what is lost or silent is counted."""
