"""doctor: problems are named before a job starts, and the exit code says so."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.data.patches import PatchDataModule
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore

GRID = ["--grid.patch_px", "64", "--grid.mpp", "1.0"]


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    paint_cohort(folder, n_patients=6, slides_per_patient=1, seed=0, size_px=560)
    return folder


def lines(capsys: pytest.CaptureFixture[str], subject: str) -> list[str]:
    out = capsys.readouterr().out
    return [line for line in out.splitlines() if line[8:].startswith(subject)]


def test_a_sound_cohort(painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--cohort", str(painted / "cohort.csv")]
    encoder = ["--encoder.name", "resnet18", "--encoder.weights", "random"]
    rest = ["--encoder.depths", "[stem]", "--n_folds", "3", "--sample", "6"]
    assert main(["doctor", *where, *GRID, *encoder, *rest]) == 0
    out = capsys.readouterr().out
    assert "PROBLEM" not in out
    assert "6 of 6 slides can be read" in out
    # Every slide was tiled, so the estimate is the number itself.
    data = PatchDataModule(
        tmp_path / "s.zarr",
        slides=painted / "slides",
        grid=GridSettings(patch_px=64, mpp=1.0),
        qc=False,
    )
    data.prepare_data()
    store = FeatureStore.open(tmp_path / "s.zarr")
    total = sum(store.slide(s).n_patches for s in store.slide_ids())
    assert f"about {total} patches of 64 px" in out
    assert "(stem 64)" in out
    assert "GiB free" in out


def test_means_and_full_depths_of_an_extraction_are_counted(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "extract.yaml"
    size: dict[str, float] = {}
    for keep in ("", "means: all, full: [stem]"):
        config.write_text(
            f"data: {{slides: {painted / 'slides'}, store: {tmp_path / 's.zarr'}, "
            "grid: {patch_px: 64, mpp: 1.0}}\n"
            f"model: {{encoder: resnet18, weights: random, depths: [stem, layer4], {keep}}}\n"
        )
        assert main(["doctor", "--config", str(config), "--sample", "6"]) == 0
        out = capsys.readouterr().out
        size[keep] = float(out.split("GiB of features")[0].split()[-1]) * 2**30
        patches = int(out.split("about ")[1].split()[0])
    every, some = size.values()
    assert every == pytest.approx(patches * (2 * (64 + 512) + 8), rel=0.01)
    means = 6 * (4 * (64 + 512) + 2 * 5 * 4096)
    assert some == pytest.approx(patches * (2 * 64 + 8) + means, rel=0.01)


def test_what_a_study_keeps_is_not_taken_for_the_place_of_its_store(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "study.yaml"
    size: dict[str, float] = {}
    for keep in ("", "store: {means: all, full: [stem]}\n"):
        config.write_text(
            f"name: s\ncohort: {painted / 'cohort.csv'}\nfolds: {{n_folds: 3}}\n{keep}"
            f"study_dir: {tmp_path / 'study'}\ngrid: {{patch_px: 64, mpp: 1.0}}\n"
            "heads: {mean: {class_path: MeanPoolHead, init_args: {hidden: []}}}\n"
            "encoders: [{name: resnet18, weights: random, depths: [stem, layer4]}]\n"
        )
        assert main(["doctor", "--config", str(config), "--sample", "6"]) == 0
        out = capsys.readouterr().out
        size[keep] = float(out.split("GiB (")[1].split()[0]) * 2**30
        patches = int(out.split("about ")[1].split()[0])
    every, some = size.values()
    assert every == pytest.approx(patches * (2 * (64 + 512) + 8), rel=0.01)
    means = 6 * (4 * (64 + 512) + 2 * 5 * 4096)
    assert some == pytest.approx(patches * (2 * 64 + 8) + means, rel=0.01)


def test_every_problem_is_named(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slides").mkdir()
    source = next((painted / "slides").iterdir())
    (tmp_path / "slides" / source.name).write_bytes(source.read_bytes())
    (tmp_path / "slides" / "text.svs").write_text("this is no slide")
    table = tmp_path / "cohort.csv"
    rows = {"slide_id": [source.stem, "text", "lost"], "patient_id": ["a", "b", "c"]}
    pd.DataFrame({**rows, "label": [0, 1, 1]}).to_csv(table, index=False)
    where = ["--slides", str(tmp_path / "slides"), "--cohort", str(table)]
    encoder = ["--encoder.name", "resnet18", "--encoder.weights", str(tmp_path / "no.safetensors")]
    assert main(["doctor", *where, *GRID, *encoder]) == 1
    problems = [x for x in capsys.readouterr().out.splitlines() if x.startswith("PROBLEM")]
    text = "\n".join(problems)
    assert "text.svs" in text
    assert "lost" in text
    assert "2 labelled slides have no readable file" in text
    assert "5 folds need" in text
    assert "no.safetensors" in text


def test_a_damaged_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from histotransfer_pl.store.importer import import_arrays

    store = tmp_path / "s.zarr"
    features = np.ones((6, 4), np.float32)
    import_arrays(store, features, np.repeat(["a", "b"], 3), "toy", "last")
    assert main(["doctor", "--store", str(store)]) == 0
    chunk = next((store / "a" / "features").rglob("c/0/0"))
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    capsys.readouterr()
    assert main(["doctor", "--store", str(store)]) == 1
    assert any("changed" in line for line in lines(capsys, "store"))


def test_nothing_to_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    assert "nothing to look at" in capsys.readouterr().err


def test_a_missing_cohort_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--cohort", str(tmp_path / "missing.csv")]) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert len([x for x in captured.out.splitlines() if "missing.csv" in x]) == 1
