"""Cohort tables and YAML files with something odd in them, put through the command line.

Every case must end in success or in one line with exit code 1 or 2. Success must mean what the file
says: the run's classes and patients are compared with the table read by `csv`, and a value of
the YAML with the one that the run recorded.
"""

import csv
import io
import json
import os
import random
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults.apart import Ended, run_apart
from benchmarks.faults.cohort import fit_arguments, make_cohort
from benchmarks.faults.tally import Tally
from histotransfer_pl.cli import network  # noqa: F401 - imported once, not by every fork
from histotransfer_pl.cli.main import main

CASES = 500
_EMPTY = {"", "na", "n/a", "nan", "null", "none", "#n/a", "#na", "<na>", "-"}
"""Cells that may count as no label."""

_CELLS = (
    *("", " ", "NA", "#N/A", "nan", "None", "-", "Neg", "POS", " pos ", "pos\u00a0", "\ufeffpos"),
    *("0", "1", "1.0", "-1", "1e300", "inf", "³", "--5", "=1+1", "@x", "x" * 5000, "\x00", "a\nb"),
    *(
        "p00",
        "p00s0",
        "p01 ",
        "../x",
        "/etc/passwd",
        "[b]",
        "true",
        "ｐｏｓ",
        "é",
        "é",
        "\u202epos",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, -0.5, 1e300, 10**20, float("nan"), float("inf")),
    *("", " ", "x", "auto", "max", "0", "-1", "1e-4", "null", "/", "..", "\x07", "é" * 300),
    *([], {}, [1], ["x"], [None], {"x": 1}, {"class_path": "x"}, {"class_path": "os.system"}),
    *({"class_path": "builtins.dict"}, {"class_path": "torch.optim.Adam", "init_args": {"lr": -1}}),
    *([[[]]], {"init_args": {}}, "2026-02-30", "0x10", "1_000", "!!python/name:os.system"),
)
_TOO_LONG = {("trainer", "max_time"), ("trainer", "detect_anomaly"), ("trainer", "num_nodes")}
"""The last waits for other machines, as it was told."""


def campaign(seed: int, cases: int) -> Tally:
    """Put so many odd tables and YAML files through `fit`."""
    os.environ["WANDB_MODE"] = "disabled"
    draw, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_cohort(folder)
        ended = run_apart(lambda: main(fit_arguments(folder)))
        if ended.code:
            raise RuntimeError(ended.errors)
        config = yaml.safe_load((folder / "run/config.yaml").read_text())
        config["overwrite"] = True
        sound = (folder / "c.csv").read_text()
        for number in range(cases):
            state = _table(folder, sound, draw) if number % 5 < 2 else _yaml(folder, config, draw)
            counts[state] += 1
    return Tally("settings", cases, counts["survived"], counts["lost"], counts["unexplained"])


def _table(folder: Path, sound: str, draw: random.Random) -> str:
    kind = draw.choice(TABLES)
    content = kind(sound, draw)
    (folder / "t.csv").write_bytes(content)
    ended = run_apart(lambda: main(fit_arguments(folder, "t.csv")))
    wrong = _end_is_odd(ended)
    if not wrong and ended.code == 0:
        wrong = _other_cohort(folder, content)
        state = "lost"
    else:
        state = "unexplained"
    return _report(state, wrong, f"table, {kind.__name__}: {_what_changed(sound, content)}")


def _yaml(folder: Path, config: dict[str, Any], draw: random.Random) -> str:
    kind = draw.choice(YAMLS)
    content, what, check = kind(config, draw)
    (folder / "x.yaml").write_bytes(content)
    words = ["fit", "--config", str(folder / "x.yaml"), "--trainer.max_time", "00:00:00:10"]
    ended = run_apart(lambda: main(words))
    wrong = _end_is_odd(ended)
    state = "unexplained"
    if not wrong and ended.code == 0:
        state = "lost"
        recorded = yaml.safe_load((folder / "run/config.yaml").read_text())
        wrong = "" if check(recorded) else "the run recorded another value"
    return _report(state, wrong, f"YAML, {what}")


def _report(state: str, wrong: str, what: str) -> str:
    if not wrong:
        return "survived"
    sys.stderr.write(f"{state}: {what}\n    {wrong[:1500]}\n")
    return state


def _end_is_odd(ended: Ended) -> str:
    """What is wrong with an end: a traceback, a signal, another exit code, several lines."""
    lines = ended.errors.rstrip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if ended.code not in (0, 1, 2) or "Traceback" in ended.errors:
        return f"ended with {ended.code}: {ended.errors[-1200:]}"
    if ended.code and (len(errors) != 1 or lines[-1] != errors[0]):
        return f"exit code {ended.code}, not one line: {ended.errors[-1200:]}"
    if not ended.code and errors:
        return f"exit code 0 with {errors[0]}"
    return ""


def _other_cohort(folder: Path, content: bytes) -> str:
    """How the run's classes and patients differ from what the table says; empty if they agree."""
    record = json.loads((folder / "run/run.json").read_text())["record"]
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")
    head = text.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    rows = [
        {
            _plain(key or ""): _plain(cell or "")
            for key, cell in row.items()
            if isinstance(cell, str)
        }
        for row in csv.DictReader(io.StringIO(text), delimiter=separator)
    ]
    labelled = [row for row in rows if row.get("label", "").lower() not in _EMPTY]
    classes = {_class(row["label"]) for row in labelled}
    found = set(map(_class, record["target"]["classes"]))
    if found != classes:
        return f"classes {sorted(found)}, the table says {sorted(classes)}"
    patients = {row["patient_id"] for row in labelled}
    seen = {_plain(p) for part in ("train", "validation") for p in record[f"{part}_patients"]}
    return f"patients {sorted(seen - patients)} are not in the table" if seen - patients else ""


def _plain(cell: str) -> str:
    return unicodedata.normalize("NFC", cell.replace("\ufeff", "")).strip()


def _class(label: str) -> str:
    """A label as a class: 1.0 and 1 are one."""
    return label.removesuffix(".0")


def _what_changed(sound: str, content: bytes) -> str:
    after = content.decode("utf-8", "replace").splitlines()
    return repr([line[:80] for line in after if line not in sound.splitlines()][:3])


def a_cell(sound: str, draw: random.Random) -> bytes:
    """One cell, or the same one in several rows."""
    rows = list(csv.reader(io.StringIO(sound)))
    column, value = draw.randrange(3), draw.choice(_CELLS)
    for row in draw.sample(range(1, len(rows)), draw.choice([1, 1, 2, 6])):
        rows[row][column] = value
    return _written(rows)


def a_name(sound: str, draw: random.Random) -> bytes:
    """The name of a column."""
    rows = list(csv.reader(io.StringIO(sound)))
    names = ["", "label", "Label", " label ", "slide_id", "patient_id", "path", "mpp", "fold", "x"]
    rows[0][draw.randrange(3)] = draw.choice(names)
    return _written(rows)


def a_column(sound: str, draw: random.Random) -> bytes:
    """A column more, less, or moved."""
    rows = list(csv.reader(io.StringIO(sound)))
    kind = draw.randrange(3)
    place = draw.randrange(3)
    extra = draw.choice(["path", "mpp", "fold", "note", "label", ""])
    value = draw.choice(["", "0", "0.5", "250", "x", "nan"])
    for number, row in enumerate(rows):
        if kind == 0:
            row.append(extra if number == 0 else value)
        elif kind == 1:
            del row[place]
        else:
            row.append(row.pop(place))
    return _written(rows)


def rows_changed(sound: str, draw: random.Random) -> bytes:
    """Rows twice, missing, too short, too long, in another order."""
    rows = list(csv.reader(io.StringIO(sound)))
    place = draw.randrange(1, len(rows))
    kind = draw.randrange(6)
    if kind == 0:
        rows.append(list(rows[place]))
    elif kind == 1:
        rows.append([*rows[place][:2], draw.choice(["neg", "pos"])])
    elif kind == 2:
        del rows[draw.randrange(len(rows)) :]
    elif kind == 3:
        rows[place] = rows[place][: draw.randrange(3)]
    elif kind == 4:
        rows[place] += ["more"] * draw.randint(1, 3)
    else:
        rows[1:] = draw.sample(rows[1:], len(rows) - 1)
    return _written(rows)


def another_form(sound: str, draw: random.Random) -> bytes:
    """Line ends, separators, quotes, encodings."""
    forms = [
        *(sound.replace("\n", "\r\n"), sound.replace(",", ";"), sound.replace(",", "\t")),
        *(sound + "\n\n", "\n" + sound, "# note\n" + sound, sound.replace(",", ", ")),
        *(sound.replace("pos", '"pos"'), sound.replace("pos", '"pos', 1), sound.rstrip("\n")),
        *("\ufeff" + sound, sound.replace("\n", "\r")),
    ]
    encodings = [
        sound.encode("utf-16"),
        sound.encode("utf-32"),
        b"\xff" + sound.encode(),
        b"PK\3\4",
    ]
    return draw.choice([*(form.encode() for form in forms), *encodings])


def bytes_changed(sound: str, draw: random.Random) -> bytes:
    """Some bytes."""
    data = bytearray(sound.encode())
    for _ in range(draw.randint(1, 3)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def _written(rows: list[list[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


TABLES: tuple[Callable[[str, random.Random], bytes], ...] = (
    *(a_cell, a_cell, a_cell, a_name, a_column, rows_changed, another_form, bytes_changed),
)

Check = Callable[[dict[str, Any]], bool]
"""Whether what a run recorded is what its YAML said."""

Odd = tuple[bytes, str, Check]


def _leaves(settings: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(settings, dict) and settings:
        return [leaf for key in settings for leaf in _leaves(settings[key], (*above, key))]
    return [above]


def a_value(config: dict[str, Any], draw: random.Random) -> Odd:
    """Another value of one setting."""
    places = [p for p in _leaves(config) if p[:2] not in _TOO_LONG and p[0] != "run_dir"]
    return _with(config, draw.choice(places), draw.choice(_VALUES))


def a_section(config: dict[str, Any], draw: random.Random) -> Odd:
    """Another value of a section of settings."""
    places = sorted({p[:-1] for p in _leaves(config) if len(p) > 1})
    return _with(config, draw.choice(places), draw.choice(_VALUES))


def an_unknown_key(config: dict[str, Any], draw: random.Random) -> Odd:
    """A key that is no setting: it must not pass."""
    (*above, _) = draw.choice(_leaves(config))
    name = draw.choice(["x", "lr", "", "class_path", "init_args", "max_epoch", "1", "a.b", "data"])
    known = config
    for key in above:
        known = known[key]
    if not isinstance(known, dict) or name in known:
        return a_value(config, draw)
    content, what, _check = _with(config, (*above, name), draw.choice(_VALUES))
    return content, what, lambda recorded: _found(recorded, (*above, name)) is not _MISSING


def a_key_taken_away(config: dict[str, Any], draw: random.Random) -> Odd:
    """A setting that is not there: its default holds."""
    place = draw.choice(_leaves(config))
    copy = json.loads(json.dumps(config))
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    del holder[place[-1]]
    return _dumped(copy), f"without {'.'.join(place)}", lambda _: True


def text_changed(config: dict[str, Any], draw: random.Random) -> Odd:
    """Damage to the text; whether what is left says the same nobody knows."""
    text = yaml.safe_dump(config)
    lines = text.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    bomb = "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(9)
    )
    forms = [
        *("".join(lines[:place]), "".join([*lines, lines[place]]), text.replace("\n", "\r\n")),
        *(
            "".join([*lines[:place], " ", *lines[place:]]),
            "".join([*lines[:place], "\t", *lines[place:]]),
        ),
        *("".join([*lines[:place], "- x\n", *lines[place:]]), bomb + text, "a: &a [*a]\n" + text),
        *(
            "---\n" + text + "---\n" + text,
            "",
            "null",
            "[]",
            "x",
            "3",
            "{",
            "%YAML 9.9\n---\n" + text,
        ),
        *(
            "!!python/object:os.system {}",
            "&a " * 50,
            "? " * 30,
            "[" * 2000,
            text.replace(":", "="),
        ),
    ]
    encoded = [text.encode("utf-16"), text.encode()[: draw.randrange(len(text))], b"\xff\xfe\x00"]
    return draw.choice([*(form.encode() for form in forms), *encoded]), "text", lambda _: True


YAMLS: tuple[Callable[[dict[str, Any], random.Random], Odd], ...] = (
    *(a_value, a_value, a_value, a_value, a_section, an_unknown_key, a_key_taken_away),
    text_changed,
)

_MISSING = object()


def _with(config: dict[str, Any], place: tuple[str, ...], value: Any) -> Odd:
    copy = json.loads(json.dumps(config))
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    what = f"{'.'.join(place)}: {str(value)[:60]!r}"
    return _dumped(copy), what, partial(_records, place=place, value=value)


def _dumped(settings: dict[str, Any]) -> bytes:
    return yaml.safe_dump(settings, allow_unicode=True).encode()


def _found(recorded: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        if not isinstance(recorded, dict) or key not in recorded:
            return _MISSING
        recorded = recorded[key]
    return recorded


def _records(recorded: dict[str, Any], place: tuple[str, ...], value: Any) -> bool:
    """Whether a value was taken as it is: 1 as 1.0, a class by its full name, {} as the default."""
    if place == ("trainer", "fast_dev_run"):
        return True  # a trial, which records nothing and says so
    found = _found(recorded, place)
    if isinstance(value, (dict, list)) and (not value or isinstance(value, dict)):
        return True  # of a section the parser fills in the defaults
    if found == value or str(found) == str(value):
        return True
    if not isinstance(value, str):
        return False
    with suppress(ValueError):  # 0x10 and 1_000 are numbers where a number is asked for
        return bool(int(value, 0) == found)
    return value.strip() in ("", "null", str(found))
