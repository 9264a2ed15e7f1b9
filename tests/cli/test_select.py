"""select: rules, provenance, galleries and refusals."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotransfer_pl.cli.main import main
from histotransfer_pl.data.selection import read_selection
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import selection_path
from tests.tuning import attention_array, tuning

STAGE1 = ("select", "--run_dir", "stage1", "--name", "s")


def slides() -> FeatureStore:
    return FeatureStore.open("s.zarr")


def test_attention_takes_the_highest_logits_and_bottom_the_lowest(tuning_cohort: Path) -> None:
    for rule, sign in (("attention", -1), ("bottom", 1)):
        assert main([*STAGE1, "--top_k", "4", "--rule", rule, "--overwrite", "true"]) == 0
        for slide_id in slides().slide_ids():
            slide = slides().slide(slide_id)
            logits = slide.read(attention_array(Path("stage1")))[:, 1]
            expected = np.argsort(sign * logits, kind="stable")
            selection = read_selection(slide, "s")
            assert selection.rows.tolist() == expected[:4].tolist()
            assert selection.candidates.tolist() == expected.tolist()  # 4 k is more than all


def test_patch_logit_takes_the_class_asked_for(tuning_cohort: Path) -> None:
    slide = slides().slide("s03")
    values = slide.read(attention_array(Path("stage1")))
    margin = values[:, 3] - values[:, 2]
    for name, sign in (("1", -1), ("0", 1)):
        rule = ["--rule", "patch_logit", "--patch_class", name, "--overwrite", "true"]
        assert main([*STAGE1, "--top_k", "2", *rule]) == 0
        rows = read_selection(slides().slide("s03"), "s").rows
        assert rows.tolist() == np.argsort(sign * margin, kind="stable")[:2].tolist()


def test_provenance_is_saved(tuning_cohort: Path) -> None:
    import hashlib

    assert main([*STAGE1, "--top_k", "4", "--rule", "random", "--seed", "5", "--pool", "6"]) == 0
    selection = read_selection(slides().slide("s00"), "s")
    checkpoint = Path("stage1/checkpoints/best.ckpt")
    found = selection.attributes
    assert found["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (found["run"], found["rule"], found["seed"], found["k"], found["pool"]) == (
        *("stage1", "random", 5, 4, 6),
    )
    assert found["encoder"] == "timm_test_resnet-random0"
    assert found["depth"] == "layer4"
    assert len(selection.candidates) == 6


def test_gallery_shows_the_patches_in_order(tuning_cohort: Path) -> None:
    assert main([*STAGE1, "--top_k", "10", "--rule", "uniform_grid", "--gallery", "g"]) == 0
    assert len(list(Path("g").iterdir())) == 12
    with Image.open("g/s00.png") as page:
        assert page.size == (8 * 96, 2 * (96 + 14))


def test_a_gallery_of_slides_that_were_moved_needs_their_folder(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("slides").rename("moved")
    assert main([*STAGE1, "--top_k", "2", "--gallery", "g"]) == 1
    assert "give the folder that holds the slides now" in capsys.readouterr().err
    assert main([*STAGE1, "--top_k", "2", "--gallery", "g", "--slides", "moved"]) == 0
    assert len(list(Path("g").iterdir())) == 12
    # A file of the same name with other content is not taken for the slide.
    Path("moved/s00.tiff").write_bytes(Path("moved/s01.tiff").read_bytes())
    assert main([*STAGE1, "--top_k", "2", "--gallery", "g", "--slides", "moved"]) == 1
    assert "is not the file that was tiled" in capsys.readouterr().err


def test_a_selection_made_otherwise_is_not_replaced(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*STAGE1, "--top_k", "4"]) == 0
    assert main([*STAGE1, "--top_k", "4"]) == 0  # the same again
    assert main([*STAGE1, "--top_k", "5"]) == 1
    assert "or replace it with --overwrite true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top_k", "0"], "expected k from 1"),
        (["--top_k", "4", "--pool", "3"], "a pool of at least k"),
        (["--top_k", "12", "--rule", "random"], "nothing to control"),
        (["--top_k", "2", "--rule", "patch_logit", "--patch_class", "7"], "no class '7'"),
        (["--top_k", "2", "--run_dir", "nowhere"], "no stage-1 checkpoint"),
        (["--top_k", "2", "--store", "nowhere.zarr"], "no store at"),
    ],
)
def test_what_cannot_be_selected(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*STAGE1, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_k_above_all_slides_keeps_them_whole(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*STAGE1, "--top_k", "64"]) == 0
    assert "the largest slide has 12 patches" in capsys.readouterr().out
    assert len(read_selection(slides().slide("s00"), "s").rows) == 12


def test_attention_must_come_from_this_checkpoint(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuning("fit", "--run_dir", "new") == 0
    assert main(["select", "--run_dir", "new", "--top_k", "2"]) == 1
    assert "(none): run predict --run_dir new first" in capsys.readouterr().err
    assert tuning("fit", "--run_dir", "stage1", "--seed_everything", "9") == 0
    assert main(["select", "--run_dir", "stage1", "--top_k", "2"]) == 1
    assert "only that of an older checkpoint" in capsys.readouterr().err


def test_mean_pooling_has_nothing_to_rank_by(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mean = ["--run_dir", "mean", "--model.head", "MeanPoolHead"]
    assert tuning("fit", *mean) == 0
    assert tuning("predict", *mean) == 0
    assert main(["select", "--run_dir", "mean", "--top_k", "2"]) == 1
    assert "the same attention" in capsys.readouterr().err
    assert main(["select", "--run_dir", "mean", "--top_k", "2", "--rule", "patch_logit"]) == 1
    assert "has no patch logits" in capsys.readouterr().err


def test_slides_that_came_into_the_store_later_are_left_alone(tuning_cohort: Path) -> None:
    store = FeatureStore.open("s.zarr")
    first = store.slide("s00")
    array = next(name for name in first.arrays() if name.startswith("features/"))
    with store.writing():
        later = store.add_slide("later", first.coords(), attributes=first.attributes)
        later.write(array, first.read(array), first.info(array).attributes)
    assert main(["select", "--run", "stage1", "--k", "2", "--name", "again"]) == 0
    assert store.slide("s00").has(selection_path("again"))
    assert not store.slide("later").has(selection_path("again"))
