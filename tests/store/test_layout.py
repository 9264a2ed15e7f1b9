"""Keys: every name comes back, and every key is a safe file name."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.layout import (
    attention_path,
    check_array_path,
    decode_key,
    encode_key,
    feature_path,
    nearest,
    selection_path,
)

NAMES = st.text(st.characters(), min_size=1, max_size=20)


@given(NAMES)
@example("a/b")
@example("..")
@example(".")
@example(".hidden")
@example("__init")
@example("zarr.json")
@example("ZARR.JSON")
@example("coords")
@example("con.svs")
@example("a.")
@example(" a b ")
@example("%2F")
@example("Schnitt ä–肺 №1")
@example("\udc80")
@example("\0\n")
def test_every_name_comes_back(name: str) -> None:
    assert decode_key(encode_key(name)) == name


@given(NAMES)
@example("..")
@example("__x")
@example("Zarr.json")
@example("NUL")
@example("lpt1.tiff")
def test_every_key_is_a_safe_file_name(name: str) -> None:
    key = encode_key(name)
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", key)
    assert not key.startswith((".", "__"))
    assert not key.endswith(".")
    assert key.lower() != "zarr.json"
    assert key.lower().split(".")[0] not in {"con", "prn", "aux", "nul", "com1", "lpt1"}


@given(NAMES, NAMES)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert (encode_key(one) == encode_key(other)) == (one == other)


def test_plain_names_stay_readable() -> None:
    assert encode_key("TCGA-CR-7395-01Z_00.svs") == "TCGA-CR-7395-01Z_00.svs"


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(StoreError, match="empty name"):
        encode_key("")


@pytest.mark.parametrize("name", ["x" * 256, "肺" * 30])
def test_a_name_longer_than_file_systems_allow_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match=r"file name of \d+ bytes, file systems take 255"):
        encode_key(name)


def test_the_longest_name_is_taken() -> None:
    assert encode_key("x" * 255) == "x" * 255


@given(NAMES, NAMES)
def test_paths_made_here_are_accepted(one: str, other: str) -> None:
    for path in (feature_path(one, other), attention_path(one), selection_path(one), "coords"):
        assert check_array_path(path) == path


@pytest.mark.parametrize(
    "path", ["", "features/a", "features/a/../b", "features//b", "other/a", "attention/.x", "/a"]
)
def test_paths_made_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(StoreError, match="make it with feature_path"):
        check_array_path(path)


def test_an_error_names_what_looks_alike() -> None:
    assert nearest("slide_10", ["slide_1", "other"]) == "it holds 2, nearest: 'slide_1'"
    assert nearest("x", []) == "it is empty"
