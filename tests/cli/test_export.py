"""`export` shows the attention of one run on the slide that was tiled, and on no other."""

from pathlib import Path

import numpy as np
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.slides.synthetic import write_pyramid
from histotransfer_pl.store.feature_store import FeatureStore
from tests.tuning import attention_array, paint, tuning


def test_another_slide_at_the_same_path_gets_no_heatmap(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pyramid(Path("slides/s00.tiff"), paint(77, positive=True), 0.5)
    call = ["export", "--store", "s.zarr", "--run_dir", "stage1", "--out", "out"]
    capsys.readouterr()
    assert main([*call, "--slide_ids", "s00", "s01"]) == 3
    assert "s00.tiff is not the file that was tiled" in capsys.readouterr().err
    assert not list(Path("out").rglob("s00.*"))
    assert list(Path("out").rglob("s01.png"))


def test_a_second_projects_run_of_the_same_name_replaces_no_attention(
    tuning_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = []
    for seed, project in enumerate(("one", "two")):
        Path(project).mkdir()
        data = ["--data.store", str(Path("s.zarr").absolute())]
        data += ["--data.cohort", str(Path("c.csv").absolute())]
        with monkeypatch.context() as patch:
            patch.chdir(project)
            options = ("--run_dir", "runs/a", *data)
            assert tuning("fit", *options, "--seed_everything", str(seed), epochs=1) == 0
            assert tuning("predict", *options) == 0
            arrays.append(attention_array(Path("runs/a")))
        slide = FeatureStore.open("s.zarr").slide("s00")
        if project == "one":
            before = slide.read(arrays[0])
    assert arrays[0] != arrays[1]
    np.testing.assert_array_equal(slide.read(arrays[0]), before)
    assert not np.array_equal(slide.read(arrays[1]), before)
    for project in ("one", "two"):
        out = ["--out", project, "--what", "attention", "--slide_ids", "s00"]
        assert main(["export", "--store", "s.zarr", "--run_dir", f"{project}/runs/a", *out]) == 0
    one, two = (Path(project, "s00.geojson").read_text() for project in ("one", "two"))
    assert one != two
