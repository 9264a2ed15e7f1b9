"""What is typed is understood: short, earlier and other words, flags, help on a page, JSON."""

import json
from pathlib import Path

import pytest

from histotransfer_pl.cli.help import short_help
from histotransfer_pl.cli.main import main
from histotransfer_pl.cli.words import nearest_verb, translate_words


@pytest.mark.parametrize(
    ("verb", "typed", "understood"),
    [
        ("fit", "--store s --overwrite", "--data.store s --overwrite true"),
        ("fit", "--overwrite --store=s", "--overwrite true --data.store=s"),
        ("extract", "--encoder resnet18 --slides d", "--model.encoder resnet18 --data.slides d"),
        ("doctor", "--slides d", "--slides d"),
        ("select", "--run r --k 3", "--run_dir r --top_k 3"),
        ("export", "--slides a b", "--slide_ids a b"),
        ("fit", "--print_config", "--print_config"),
        ("fit", "--help", "--help"),
        ("fit", "--trainer.max_epochs -1", "--trainer.max_epochs -1"),
        ("test", "--data.help", "--data.help histotransfer_pl.data.features.FeatureDataModule"),
        ("test", "--data.help TopKPatchDataModule", "--data.help TopKPatchDataModule"),
    ],
)
def test_words_become_options(verb: str, typed: str, understood: str) -> None:
    assert translate_words(verb, typed.split()) == understood.split()


def test_an_earlier_spelling_is_accepted_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    translate_words("select", ["--k", "3"])
    assert capsys.readouterr().err == "select: --k is now --top_k; both are accepted\n"


@pytest.mark.parametrize(
    ("word", "verb"),
    [("train", "fit"), ("infer", "apply"), ("heatmap", "export"), ("extrct", "extract"),
     ("FIT", "fit"), ("zzz", None)],
)  # fmt: skip
def test_words_of_the_field_lead_to_the_verb(word: str, verb: str | None) -> None:
    assert nearest_verb(word, ("fit", "apply", "export", "extract")) == verb


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "extract"])
def test_help_is_one_page_with_our_settings_and_their_defaults(verb: str) -> None:
    text = short_help(verb)
    lines = text.splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 100
    settings = [line for line in lines if line.startswith("  --data.")]
    assert len(settings) > 8
    assert all("(default: " in line or "(must be given)" in line for line in settings)
    assert "--data.store " in text
    assert "--trainer.max_epochs" in text


def test_one_object_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my.yaml"
    assert main(["init", "--file", str(file), "--json"]) == 0
    out = capsys.readouterr()
    answer = json.loads(out.out)
    assert answer["verb"] == "init"
    assert answer["exit_code"] == 0
    assert answer["files"] == [str(file)]
    assert answer["done"][0].startswith("wrote")
    assert "wrote" in out.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["verify", "--store", "nowhere", "--json"], 1, "no store at"),
        (["verify", "--json"], 2, ""),
        (["init", "--json", "--nonsense", "1"], 2, ""),
    ],
)
def test_errors_are_in_the_object_too(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == code
    assert words in answer["error"]
