"""Shards are disjoint, complete, of about the same size, and the same on every node."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histotransfer_pl.data.shards import Shard, read_shard, shard_of
from histotransfer_pl.errors import ConfigError


@given(st.lists(st.integers(0, 10**9), max_size=60), st.integers(1, 9))
def test_every_item_is_in_one_shard(sizes: list[int], count: int) -> None:
    items = [f"slide {n}" for n in range(len(sizes))]
    parts = [shard_of(items, sizes, n, count) for n in range(count)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert all(part == sorted(part, key=items.index) for part in parts)
    size_of = dict(zip(items, sizes, strict=True))
    loads = [sum(size_of[item] for item in part) for part in parts]
    best = max(sum(sizes) / count, max(sizes, default=0))
    assert max(loads) <= 4 / 3 * best + max(sizes, default=0) / 3 + len(sizes)  # Graham's bound


def test_shards_of_equal_items_are_equal() -> None:
    assert [len(shard_of(range(32), [7] * 32, n, 4)) for n in range(4)] == [8] * 4
    assert [len(shard_of(range(6), [0] * 6, n, 4)) for n in range(4)] == [2, 2, 1, 1]
    assert shard_of(["a"], [5], 3, 4) == []


@pytest.mark.parametrize(
    ("environment", "text", "expected"),
    [
        ({}, "1/4", "1/4"),
        (
            {
                "SLURM_ARRAY_TASK_ID": "7",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "5",
            },
            "auto",
            "2/4",
        ),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1"}, "auto/16", "7/16"),
        ({"JOB_COMPLETION_INDEX": "3"}, "auto/8", "3/8"),
        ({"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "4"}, "auto", "3/4"),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "2"}, "auto", "0/2"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "auto", "1/2"),
    ],
)
def test_where_the_numbers_come_from(environment: dict[str, str], text: str, expected: str) -> None:
    assert str(read_shard(text, environment)) == expected


@pytest.mark.parametrize(
    ("environment", "text", "message"),
    [
        ({}, "4/4", "shard 4/4 does not exist: shards are numbered from 0"),
        ({}, "0/0", "shard 0/0 does not exist"),
        ({}, "-1/4", "shard '-1/4' is none: give i/n"),
        ({}, "two", "shard 'two' is none"),
        ({}, "auto", "needs an array job, but none of SLURM_ARRAY_TASK_ID,"),
        ({"JOB_COMPLETION_INDEX": "3"}, "auto", "is 3, but not of how many: give --shard auto/N"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "auto", "shard 2/2 does not exist"),
        ({"RANK": "2"}, "auto/x", "not of how many"),
    ],
)
def test_numbers_that_make_no_sense(environment: dict[str, str], text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_shard(text, environment)
    assert Shard(0, 1) == Shard(0, 1)
