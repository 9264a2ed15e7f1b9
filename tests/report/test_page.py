"""The page as a whole: self-contained, escaped, the same again, honest about what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typing_extensions import override

from histotransfer_pl.cli.main import main
from histotransfer_pl.report.build import Report, Settings, build_report
from histotransfer_pl.report.similarity import read_similarities
from histotransfer_pl.report.story import answer_questions
from histotransfer_pl.runs.arms import Arm
from histotransfer_pl.runs.costs import costs_of, read_costs
from histotransfer_pl.runs.run import ArmKey, Task
from histotransfer_pl.runs.steps import Plan, Step
from histotransfer_pl.runs.study import Network, Study, load_runs, load_study
from histotransfer_pl.runs.variant import Variant
from tests.runs.folders import predictions, write_run, write_study

ARMS = {("enc", "d1"): 0.3, ("enc", "d2"): 1.5, ("enc", "d3"): 1.5, ("other", "d3"): 0.5}
QUICK = Settings(n_slides=0, resamples=100)


class Page(HTMLParser):
    """What a browser would load, and what it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.images_without_text = 0
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [str(found[key]) for key in ("src", "href") if key in found]
        self.images_without_text += tag == "img" and not found.get("alt")
        self.ids += [str(found["id"])] if "id" in found else []

    @override
    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("s") / "study", ARMS, missing=["enc-d3-f2-s0"])
    for name in ("similarity", "gain"):
        (folder / name).mkdir()
    layers = ["d1", "d2", "d3"]
    matrix = pd.DataFrame(np.eye(3), columns=layers)
    matrix.insert(0, "layer", layers)
    matrix.to_csv(folder / "similarity" / "a <vs> b.csv", index=False)
    facts = {
        "x": "enc",
        "y": "other",
        "n": 40,
        "controls": {"with random": {"d1": 0.2, "d2": None}},
    }
    (folder / "similarity" / "a <vs> b.json").write_text(json.dumps(facts))
    (folder / "similarity" / "broken.csv").write_text("")
    gain = {"layer": layers, "pretrained": 0.8, "random": 0.6, "chance": 0.5, "gain": 0.2}
    gain |= {"increment": 0.1, "standard_error": 0.02, "n_folds": 5, "n_seeds": 5, "seed_sd": 0.01}
    gain |= {"random_initial": 0.75, "gain_initial": 0.05}
    pd.DataFrame(gain).to_csv(folder / "gain" / "enc.csv", index=False)
    costs = {"encoder": "enc", "depth": layers, "dim": [8, 16, 32], "params": [1e4, 1e5, 1e6]}
    costs |= {"macs": [1e6, 2e6, 4e6], "patches_per_s": [300.0, 200.0, 100.0]}
    pd.DataFrame(costs).to_csv(folder / "costs.csv", index=False)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "note": "painted & not real"}))
    return folder


@pytest.fixture(scope="module")
def report(study: Path) -> Report:
    return build_report(load_study(study), study / "report", QUICK)


def test_the_page_loads_nothing_from_elsewhere(report: Report) -> None:
    page = Page(report.html.read_text())
    files = {a for a in page.addresses if not a.startswith(("data:", "#"))}
    assert {a.split("/")[0] for a in files} == {"tables"}
    for address in files:
        assert (report.folder / address.replace("%25", "%")).is_file(), address
    assert "script" not in page.tags
    assert "@import" not in report.html.read_text()
    assert "url(" not in re.sub(r"data:[^\"]*", "", report.html.read_text())


def test_links_of_the_page_lead_somewhere_and_pictures_have_words(report: Report) -> None:
    page = Page(report.html.read_text())
    anchors = {a[1:] for a in page.addresses if a.startswith("#")}
    assert anchors <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.images_without_text == 0
    assert page.tags.count("img") >= 6


def test_names_are_shown_as_text(report: Report) -> None:
    text = report.html.read_text()
    page = Page(text)
    assert "a <b>study</b>" in page.words
    assert "<b>" not in text
    assert "disk <full>" in page.words
    assert "a <vs> b" in page.words


def test_the_page_says_what_was_done_and_what_networks_have_in_common(report: Report) -> None:
    words = Page(report.html.read_text()).words
    assert "painted & not real" in words
    assert "cut at 3 depths (d1, d2 and d3)" in words
    assert "Encoders: enc and other." in words
    assert "once for each of 3 test folds" in words
    assert "CKA of the same block is 1.00 at d1 and 1.00 at d3" in words
    assert "a gain of +0.20, or +0.05 over random networks with initial BatchNorm" in words
    assert "the same, initial BatchNorm" in (report.folder / "figures" / "gain_enc.svg").read_text()


def test_a_tuned_network_is_named_by_its_record(tmp_path: Path) -> None:
    (tmp_path / "similarity").mkdir()
    (tmp_path / "similarity" / "m.csv").write_text("layer,d1\nd1,1.0\n")
    known = {"encoder": "net", "tuned_rule": "random", "tuned_fold": 2}
    facts = {"x": "net@tuned-f7", "y": "any", "encoder_x": {"encoder": "net"}, "encoder_y": known}
    (tmp_path / "similarity" / "m.json").write_text(json.dumps(facts))
    (found,), problems = read_similarities(tmp_path)
    assert not problems
    assert found.sides == ("net@tuned-f7", "net tuned on random (fold 2)")


def test_tuning_is_told_with_its_controls() -> None:
    variants = ["frozen", "topk", "topk-joint", "random"]
    keys = [ArmKey("e", "default", "d", "h", Variant.read(v)) for v in variants]
    arms = [Arm(key, Task("c", "t", "slide"), {}) for key in keys]
    plain, told = (
        answer_questions(Study(Plan("s", steps), ()), some, None)
        for steps, some in (
            ((), arms[:1]),
            ((Step("x", "select", ("select", "--top_k", "16")),), arms),
        )
    )
    assert len(told) == len(plain) + 1
    assert "taught nothing" not in plain[0]
    key = ArmKey("e", "random", "d", "h", weights_kind="random")
    untaught = Arm(key, Task("c", "t", "slide"), {})
    assert "taught nothing" in answer_questions(Study(Plan("s", ()), ()), [untaught], None)[0]
    assert "the 16 patches of each slide with the most attention" in told[-1]
    assert "the same was done with random patches" in told[-1]


def test_what_is_missing_is_said_and_the_rest_is_shown(report: Report) -> None:
    words = Page(report.html.read_text()).words
    assert "1 step failed, 1 is still to run" in words
    assert "fit-enc-d3-f2-s0 failed" in words
    assert "broken.csv is no CKA matrix" in words
    assert "enc · d2 did best" in words
    assert "Only 40 patches" in words
    missing = pd.read_csv(report.folder / "tables" / "missing_runs.csv")
    assert missing["run"].tolist() == ["enc-d3-f2-s0"]


def test_every_figure_has_both_files_and_every_table_its_numbers(report: Report) -> None:
    stems = {path.stem for path in (report.folder / "figures").glob("*.svg")}
    assert stems == {
        "arms", "cost", "depth", "reliability", "roc", "confusion", "cka_diagonal",
        "cka_a%20%3Cvs%3E%20b", "gain_enc",
    }  # fmt: skip
    for stem in stems:
        with Image.open(report.folder / "figures" / f"{stem}.png") as image:
            assert min(image.size) > 300
    arms = pd.read_csv(report.folder / "tables" / "arms.csv")
    assert len(arms) == len(ARMS)
    assert ((arms["auroc_low"] <= arms["auroc"]) & (arms["auroc"] <= arms["auroc_high"])).all()
    latex = (report.folder / "tables" / "arms.tex").read_text()
    assert latex.count("\\\\\n") == len(ARMS) + 1
    assert r"\toprule" in latex
    depth = pd.read_csv(report.folder / "tables" / "depth_and_cost.csv")
    # d3 lacks a fold, so the curve has two points and the better one is the sweet spot.
    assert depth["depth"].tolist() == ["d1", "d2"]
    assert depth.loc[depth["sweet_spot"], "depth"].tolist() == ["d2"]


def test_the_same_study_gives_the_same_report(study: Path, report: Report, tmp_path: Path) -> None:
    again = build_report(load_study(study), tmp_path, QUICK)
    assert again.html.read_text() == report.html.read_text()
    for path in sorted((report.folder / "figures").glob("*.svg")):
        assert (tmp_path / "figures" / path.name).read_bytes() == path.read_bytes()


def test_a_study_without_a_finished_run_still_has_a_page(tmp_path: Path) -> None:
    names = [f"enc-d1-f{fold}-s0" for fold in range(3)]
    folder = write_study(tmp_path / "s", {("enc", "d1"): 1.0}, missing=names)
    words = Page(build_report(load_study(folder), tmp_path / "r", QUICK).html.read_text()).words
    assert "No run has test predictions yet" in words
    assert "3 steps failed, 3 are still to run" in words


def test_a_report_takes_away_what_the_one_before_it_wrote_and_nothing_else(tmp_path: Path) -> None:
    arms, out = {("enc", "d1"): 1.0}, tmp_path / "r"
    missing = write_study(tmp_path / "half", arms, missing=["enc-d1-f2-s0"])
    build_report(load_study(missing), out, QUICK)
    assert len(pd.read_csv(out / "tables" / "missing_runs.csv")) == 1
    (out / "tables" / "notes.csv").write_text("mine")
    build_report(load_study(write_study(tmp_path / "whole", arms)), out, QUICK)
    found = {path.name for path in (out / "tables").iterdir()}
    assert {"arms.csv", "notes.csv"} <= found
    assert not found & {"missing_runs.csv", "steps.csv"}
    named = (out / "files.txt").read_text().split()
    assert all((out / name).is_file() for name in named)
    assert "tables/arms.csv" in named


def test_two_tasks_are_shown_apart(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "one", predictions(0, 1.0)),
        write_run(tmp_path / "two", predictions(0, 1.0), target="grade"),
    ]
    written = build_report(load_runs(runs), tmp_path / "r", QUICK)
    words = Page(written.html.read_text()).words
    assert "The runs are of 2 different tasks" in words
    assert {p.name for p in (tmp_path / "r" / "tables").glob("arms*")} == {
        f"arms_{number}.{kind}" for number in (1, 2) for kind in ("csv", "tex")
    }


def test_costs_of_random_weights_are_those_of_the_network(study: Path) -> None:
    table, note = read_costs(study, {"enc": Network("enc"), "untrained": Network("enc")})
    assert note == ""
    row = costs_of(table, ArmKey("untrained", "random", "d2", "h"))
    assert row is not None
    assert row["parameters"] == 1e5


def test_costs_that_nobody_measured_are_counted() -> None:
    table, note = read_costs(None, {name: Network(name) for name in ("resnet18", "unheard_of")})
    full = table[(table["encoder"] == "resnet18") & (table["depth"] == "layer4")]
    assert full["parameters"].tolist() == [11_176_512]
    assert "counted" in note


def test_long_and_wide_matrices_read_alike(tmp_path: Path) -> None:
    (tmp_path / "similarity").mkdir()
    wide = "layer,u,v\na,1.0,0.2\nb,0.3,0.4\n"
    long = "layer_x,layer_y,cka\na,u,1.0\na,v,0.2\nb,u,0.3\nb,v,0.4\n"
    (tmp_path / "similarity" / "long.csv").write_text(long)
    (tmp_path / "similarity" / "wide.csv").write_text(wide)
    (first, second), problems = read_similarities(tmp_path)
    assert not problems
    assert first.layers_x == second.layers_x == ("a", "b")
    np.testing.assert_array_equal(first.values, second.values)


def test_the_summary_run_has_the_figures_and_tables(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    quick = ("--n_slides", "0", "--resamples", "100", "--boards", "wandb")
    assert main(["report", "--study_dir", str(study), "--out", str(tmp_path), *quick]) == 0
    figures = {f"figures/{path.stem}" for path in (tmp_path / "figures").glob("*.svg")}
    tables = {f"tables/{path.stem}" for path in (tmp_path / "tables").glob("*.csv")}
    assert {"figures/depth", "figures/cka_diagonal", "tables/arms"} <= figures | tables
    media = list((tmp_path / "wandb").glob("offline-run-*/files/media"))
    assert len(media) == 1
    logged = {path.name.rsplit("_", 2)[0] for path in media[0].rglob("*.*")}
    # W&B writes its own for other signs
    assert {Path(name).name for name in figures | tables if "%" not in name} <= logged
