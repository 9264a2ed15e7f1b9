"""The first minutes: presets that plan, and a demo whose last word is its report."""

import shlex
from pathlib import Path

import pytest

from histotransfer_pl.cli import start
from histotransfer_pl.cli.doctor import doctor_settings
from histotransfer_pl.cli.main import main
from histotransfer_pl.slides.synthetic import paint_cohort


@pytest.mark.parametrize("preset", ["slides", "study"])
def test_a_preset_is_short_commented_and_plans(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    paint_cohort(tmp_path, n_patients=6, slides_per_patient=1, seed=0, size_px=512)
    (tmp_path / "resnet18.safetensors").write_bytes(b"")
    assert main(["init", "--preset", preset]) == 0
    lines = Path("my.yaml").read_text().splitlines()
    assert len(lines) <= 15
    assert sum("#" in line for line in lines) >= 8
    verb, *words = shlex.split(lines[0].removeprefix("# histotransfer_pl "))
    assert main([verb, *words, "--dry_run"]) == 0
    assert "extract" in capsys.readouterr().out
    assert main(["init", "--preset", preset]) == 1  # what is there is not overwritten


def test_the_demo_says_what_it_takes_and_ends_with_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran: list[list[str]] = []

    def run(words: list[str]) -> int:
        ran.append(list(words))
        return 0

    opened: list[str] = []
    monkeypatch.setattr("histotransfer_pl.cli.main.main", run)
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(start, "has_display", lambda: True)
    assert start.demo(Path("try")) == 0
    said = capsys.readouterr().out
    assert "minutes" in said.splitlines()[1]
    assert said.rstrip().endswith("try/report/index.html")
    assert opened == [(tmp_path / "try/report/index.html").as_uri()]
    assert [words[0] for words in ran] == ["paint", "extract", "fit", "test", "predict", "report"]
    assert sorted(path.name for path in Path("try").iterdir()) == ["extract.yaml", "fit.yaml"]


def test_nothing_is_opened_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert not start.has_display()


def test_doctor_reads_the_configuration_of_other_verbs() -> None:
    extract = {"data": {"slides": "s", "store": "z", "threads": 2},
               "model": {"encoder": "resnet18", "weights": "w", "depths": "last"}}  # fmt: skip
    assert doctor_settings(extract) == {
        "slides": "s",
        "store": "z",
        "encoder": {"name": "resnet18", "weights": "w", "depths": "last"},
    }
    fit = {"model": {"class_path": "AttentionMIL", "init_args": {"encoder": "x"}},
           "data": {"init_args": {"cohort": "c", "n_folds": 3, "fold": 1}}}  # fmt: skip
    assert doctor_settings(fit) == {"cohort": "c", "n_folds": 3}
    study = {"name": "n", "cohort": "c", "encoders": [{"name": "resnet18"}],
             "folds": {"n_folds": 4}}  # fmt: skip
    assert doctor_settings(study) == {
        "cohort": "c",
        "encoders": [{"name": "resnet18"}],
        "n_folds": 4,
    }
