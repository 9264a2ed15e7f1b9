"""Tests of the benchmark programs: that they run and say what they should; never how fast."""
