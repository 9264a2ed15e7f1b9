from pathlib import Path

import pytest

from histotransfer_pl.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], "no verb 'fitt'; did you mean fit?"),
        (["fit", "--trainer.max_epoch", "3"], "did you mean --trainer.max_epochs?"),
        (["fit", "--data.store", "s", "--data.cohort", "c", "--model.alpa", "3"],
         "no setting 'alpa'; did you mean alpha?"),
        (["fit", "--data.store", "s", "--data.cohort", "c", "--model", "AttentonMIL"],
         "no class 'AttentonMIL' (in model); did you mean AttentionMIL?"),
        (["fit", "--data.store", "s", "--data.cohort", "c", "--model.head", "GatedAtention"],
         "did you mean GatedAttentionHead?"),
        (["fit", "--data", "TopKPatchDataModule", "--data.encoder", "x"],
         "no setting 'encoder'; the class that was chosen does not take it"),
        (["fit", "--config", "nope.yaml"], "nope.yaml"),
        (["extract", "--data.slides", "x"], "data.store must be given"),
        (["verify", "--stor", "x"], "did you mean --store?"),
    ],
)  # fmt: skip
def test_a_mistyping_is_one_line_that_proposes_the_nearest(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(str(stop.code))
    assert code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("demo", "tile", "extract", "fit", "test", "predict", "verify"):
        assert f"\n  {verb} " in text


@pytest.mark.parametrize("verb", ["fit", "extract", "tile", "import"])
def test_help_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help_all"])
    assert "usage: python -m histotransfer_pl" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["fit", "extract", "tile", "study", "report", "doctor"])
def test_a_key_that_is_there_twice_is_named_with_its_line(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("data:\n  store: a\n  slides: s\n  store: b\n", encoding="utf-8")
    try:
        code = main([verb, "--config", str(path)])
    except SystemExit as stop:
        code = int(str(stop.code))
    assert code in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "line 4: 'store' is there a second time, first in line 2" in line


@pytest.mark.parametrize(
    ("verb", "text", "section"),
    [
        ("fit", "trainer: 1", "trainer"),
        ("fit", "trainer:\nseed_everything: 1", "trainer"),
        ("fit", "checkpoint: [a]", "checkpoint"),
        ("tile", "data: 0.5", "data"),
    ],
)
def test_a_section_that_holds_a_value_is_refused_whatever_else_is_given(
    verb: str, text: str, section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting of the section on the command line would else take its place unsaid."""
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    given = ["--data.slides", "x"] if verb == "tile" else ["--trainer.max_epochs", "1"]
    with pytest.raises(SystemExit, match="2"):
        main([verb, "--config", str(path), *given])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: expected settings, one per line (in {section}), got ")


def test_fit_has_no_other_folder(capsys: pytest.CaptureFixture[str]) -> None:
    call = ["fit", "--data.store", "s", "--data.cohort", "c", "--output_dir", "o"]
    assert main(call) == 1
    assert "error: output_dir is for test and predict" in capsys.readouterr().err
