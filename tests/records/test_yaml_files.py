"""YAML is read in one way: nothing twice, nothing without bounds."""

import time
from pathlib import Path

import pytest
import yaml

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.yaml_files import MOST_NODES, YamlError, parse_yaml, read_yaml

BOMB = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
"""600 bytes that stand for 10^12 values."""


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: {c: [1, 2.5, x, null, true]}\n",
        "base: &base {lr: 1.0, seed: 0}\none: {<<: *base, seed: 1}\ntwo: *base\n",  # overriding
        "1: a\n'1': b\n",  # a number and a word
        "[a, b]\n",
        "",
    ],
)
def test_what_is_plain_is_read_as_pyyaml_reads_it(text: str) -> None:
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("store: a\nslides: s\nstore: b\n", r"line 3: 'store' .* first in line 1"),
        ("data:\n  fold: 0\n  fold: 1\n", r"line 3: 'fold' .* first in line 2"),
        ("a: {b: 1, b: 2}", r"line 1: 'b' is there a second time"),
        ("- a: 1\n  a: 1\n", r"line 2: 'a'"),
        (BOMB, rf"line \d+: more than {MOST_NODES:,} values"),
        ("a: &a [1, *a]\n", r"line 1: an anchor that holds itself"),
        ("[" * 70 + "]" * 70, r"line 1: more than 64 levels"),
        ("[" * 100_000, r"line 1: .*nesting depth"),
        ("a: [1, 2\nb: 3\n", r"line 2: "),
        ("when: 2026-02-32\n", "day"),
        ("a: !!python/object/apply:os.system [ls]\n", r"line 1: could not determine a constructor"),
    ],
)
def test_what_says_two_things_or_grows_is_refused_in_one_line(text: str, match: str) -> None:
    start = time.process_time()
    with pytest.raises(YamlError, match=match) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 1.0


def test_a_file_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\na: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.yaml, line 2: 'a'"):
        read_yaml(path)
    path.write_text("a: é\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"a\.yaml is not text in UTF-8: save it"):
        read_yaml(path)
    with pytest.raises(OSError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")
