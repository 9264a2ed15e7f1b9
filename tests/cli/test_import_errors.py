"""What `import` and `encoders --benchmark` cannot use is one line, before anything is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from histotransfer_pl.cli.main import main
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path

X = np.arange(12, dtype=np.float32).reshape(6, 2)
BAG = np.array([5, 5, 10, 10, 20, 20])
Y = np.array([0, 1, 0])


def import_into(folder: Path, arrays: Path) -> int:
    out = ["--store", str(folder / "new" / "s.zarr"), "--cohort", str(folder / "new" / "c.csv")]
    return main(["import", "--arrays", str(arrays), *out])


@pytest.mark.parametrize(
    ("bags", "ids"),
    [
        (np.array(["b/2", "a", "c", "a", "b/2", "c"]), ["a", "b/2", "c"]),
        (BAG, ["05", "10", "20"]),
    ],
)
def test_bags_are_numbers_or_text(tmp_path: Path, bags: np.ndarray, ids: list[str]) -> None:
    np.savez(tmp_path / "a.npz", X=X, bag=bags, y=Y)
    assert import_into(tmp_path, tmp_path / "a.npz") == 0
    table = pd.read_csv(tmp_path / "new" / "c.csv", dtype=str)
    assert table["slide_id"].tolist() == ids
    assert table["label"].tolist() == ["0", "1", "0"]
    store = FeatureStore.open(tmp_path / "new" / "s.zarr")
    assert store.slide_ids() == ids
    for bag, name in zip(np.unique(bags), ids, strict=True):
        values = store.slide(name).read(feature_path("given", "last"))
        np.testing.assert_array_equal(values, X[bags == bag])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bag": BAG.astype(float)}, "bag is of type float64, expected whole numbers or text"),
        ({"bag": BAG.astype(object)}, "bag cannot be read (Object arrays"),
        ({"bag": BAG.astype("S")}, "bag is of type |S"),
        ({"bag": BAG[:, None]}, "bag has the shape (6, 1), expected (instances,)"),
        ({"bag": BAG[:5]}, "bag has 5 entries for 6 rows of X"),
        ({"bag": np.array(["", "", "a", "a", "b", "b"])}, "an empty name cannot be stored"),
        ({"X": X.astype(object)}, "X cannot be read (Object arrays"),
        ({"X": X.astype(str)}, "X is of type <U"),
        ({"X": X[:, 0]}, "X has the shape (6,), expected (instances, D)"),
        ({"X": np.where(X == 3, np.nan, X)}, "X holds values that are not finite"),
        ({"X": X.astype(np.float64) * 1e300}, "row 0: 1e+300 does not fit float32"),
        ({"X": X[:0], "bag": BAG[:0], "y": Y[:0]}, "at least one row"),
        ({"y": Y[:, None]}, "y has the shape (3, 1), expected (bags,)"),
        ({"y": Y.astype(object)}, "y cannot be read (Object arrays"),
        ({"y": np.array([0.0, np.nan, 1.0])}, "y holds values that are not finite"),
        ({"y": Y[:2]}, "2 labels y for 3 bags"),
    ],
)
def test_arrays_that_cannot_be_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], message: str
) -> None:
    arrays: dict[str, Any] = {"X": X.astype(np.float64), "bag": BAG, "y": Y, **changed}
    np.savez(tmp_path / "a.npz", **arrays)
    refused(import_into(tmp_path, tmp_path / "a.npz"), capsys, message)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["npy", "text", "cut"])
def test_files_that_are_no_npz(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, X)
    elif kind == "text":
        path.write_text("X,bag,y")
    else:
        np.savez(tmp_path / "a.npz", X=X, bag=BAG, y=Y)
        path.write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    refused(import_into(tmp_path, path), capsys, "is not an .npz file")
    assert not (tmp_path / "new").exists()


def test_a_folder_in_place_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", X=X, bag=BAG, y=Y)
    (tmp_path / "new" / "c.csv").mkdir(parents=True)
    refused(import_into(tmp_path, tmp_path / "a.npz"), capsys, "is a folder")
    assert not (tmp_path / "new" / "s.zarr").exists()


def test_a_table_of_the_users_own_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everywhere else `--cohort` is read; a precious table must survive the mistake."""
    np.savez(tmp_path / "a.npz", X=X, bag=BAG, y=Y)
    table = tmp_path / "new" / "c.csv"
    table.parent.mkdir()
    table.write_text("precious\n1\n")
    refused(import_into(tmp_path, tmp_path / "a.npz"), capsys, "c.csv")
    assert table.read_text() == "precious\n1\n"
    assert not (tmp_path / "new" / "s.zarr").exists()
    table.unlink()
    assert [import_into(tmp_path, tmp_path / "a.npz") for _ in range(2)] == [0, 0]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "device is cuda, and torch sees 0 CUDA devices here"),
        ("cuda:1", "device is cuda:1, and torch sees 0 CUDA devices here"),
        ("gpu", "device is 'gpu': expected cpu or cuda"),
        ("cuda:", "device is 'cuda:': expected cpu or cuda"),
    ],
)
def test_a_device_that_is_not_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    output = tmp_path / "costs.csv"
    asked = ["encoders", "--benchmark", "[resnet18]", "--device", device, "--output", str(output)]
    refused(main(asked), capsys, message)
    assert not output.exists()


def refused(code: int, capsys: pytest.CaptureFixture[str], message: str) -> None:
    said = capsys.readouterr().err
    assert code == 1
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
