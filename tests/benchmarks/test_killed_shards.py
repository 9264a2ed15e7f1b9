"""Shards that are killed at random, many times over."""

from pathlib import Path

import pytest

from benchmarks.store_shards import survive_kills


@pytest.mark.slow
def test_twenty_stores_of_killed_shards_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    result = survive_kills(tmp_path, times=20, slides=40, patches=100)
    killed = int(result.notes.split()[0])
    assert killed >= 40, "most processes must be killed while they write"
