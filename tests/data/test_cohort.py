from pathlib import Path

import pytest

from histotransfer_pl.data.cohort import read_cohort, slides_from_cohort, slides_from_folder
from histotransfer_pl.errors import CohortError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_ids_stay_text(tmp_path: Path) -> None:
    frame = read_cohort(write(tmp_path / "c.csv", "slide_id,patient_id\n007,01\nä b/c,..\n"))
    assert frame["slide_id"].tolist() == ["007", "ä b/c"]
    assert frame["patient_id"].tolist() == ["01", ".."]


def test_missing_table_and_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"no cohort table at .*nope\.csv"):
        read_cohort(tmp_path / "nope.csv")
    with pytest.raises(CohortError, match="has no column slide_id; found: slide, label"):
        read_cohort(write(tmp_path / "c.csv", "slide,label\na,1\n"))
    with pytest.raises(CohortError, match="is not a CSV table"):
        read_cohort(write(tmp_path / "e.csv", ""))


def test_duplicate_and_empty_ids(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="'a' stand more than once"):
        read_cohort(write(tmp_path / "c.csv", "slide_id\na\nb\na\n"))
    with pytest.raises(CohortError, match="line 3 has no slide_id"):
        read_cohort(write(tmp_path / "d.csv", "slide_id,label\na,1\n,0\n"))


def test_paths_start_at_the_table_and_stay_below_it(tmp_path: Path) -> None:
    table = write(tmp_path / "c.csv", "slide_id,path,mpp\na,slides/x.svs,0.25\nb,y.tif,\n")
    with pytest.raises(CohortError, match=r"none of the 2 files .* relative paths start at"):
        slides_from_cohort(table)
    (tmp_path / "y.tif").touch()  # one lost file of two is found out when it is read
    first, second = slides_from_cohort(table)
    assert first.path == tmp_path / "slides" / "x.svs"
    assert first.mpp == 0.25
    assert second.mpp is None
    for name in ("../x.svs", "/etc/passwd", "slides/../../x"):
        outside = write(tmp_path / "o.csv", f"slide_id,path\na,{name}\n")
        with pytest.raises(CohortError, match="lies outside"):
            slides_from_cohort(outside)


def test_an_absolute_path_is_fine_below_the_folder_given(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "x.svs").touch()
    table = write(tmp_path / "c.csv", f"slide_id,path\na,{folder}/x.svs\n")
    assert slides_from_cohort(table, folder)[0].path == folder / "x.svs"


def test_without_paths_slides_are_found_by_their_stem(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "a.tif").touch()
    table = write(tmp_path / "c.csv", "slide_id\na\nlost\n")
    found, lost = slides_from_cohort(table, folder)
    assert found.path == folder / "a.tif"
    assert not lost.path.exists()
    with pytest.raises(CohortError, match="no column path: add it, or say with data.slides"):
        slides_from_cohort(table)


@pytest.mark.parametrize("value", ["x", "-1", "0"])
def test_mpp_must_be_a_positive_number(tmp_path: Path, value: str) -> None:
    table = write(tmp_path / "c.csv", f"slide_id,path,mpp\na,x.svs,{value}\n")
    with pytest.raises(CohortError, match="mpp of slide 'a' is"):
        slides_from_cohort(table)


def test_a_folder_names_slides_by_stem(tmp_path: Path) -> None:
    for name in ("b.svs", "a.tif", "notes.txt"):
        (tmp_path / name).touch()
    assert [entry.slide_id for entry in slides_from_folder(tmp_path)] == ["a", "b"]
    (tmp_path / "a.svs").touch()
    with pytest.raises(CohortError, match=r"would both be the slide 'a'"):
        slides_from_folder(tmp_path)


def test_no_folder_and_no_slide(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no folder"):
        slides_from_folder(tmp_path / "nope")
    with pytest.raises(CohortError, match="no slide file"):
        slides_from_folder(tmp_path)
