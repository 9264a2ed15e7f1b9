from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest

from histotransfer_pl.data.cohort import (
    read_cohort,
    read_table,
    resolve_mpp,
    slides_from_cohort,
    slides_from_folder,
)
from histotransfer_pl.errors import CohortError, ConfigError, SlideError
from tests.slides.tiffs import tissue, write_plain


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


@pytest.mark.parametrize("value", ["x", "-1", "0", "250", "0.00025", "1e300", "inf", "³", "--5"])
def test_a_row_of_an_absurd_mpp_fails_alone(tmp_path: Path, value: str) -> None:
    for name in ("a.tif", "b.tif"):
        write_plain(tmp_path / name, tissue(64, 64))
    table = write(tmp_path / "c.csv", f"slide_id,path,mpp\na,a.tif,{value}\nb,b.tif,0.25\n")
    bad, good = slides_from_cohort(table)
    with pytest.raises(SlideError, match=r"mpp of slide 'a' is .*, expected 0\.05 to 20\.0 micro"):
        bad.open(slide_mpp=0.5)  # no other number may take its place
    assert good.open().mpp == 0.25


def test_native_reads_a_slide_in_its_own_pixels(tmp_path: Path) -> None:
    write_plain(tmp_path / "a.tif", tissue(64, 64))
    table = write(tmp_path / "c.csv", "slide_id,path,mpp\na,a.tif,Native\n")
    (entry,) = slides_from_cohort(table, native_mpp=2.0)
    assert entry.open().mpp == 2.0
    assert resolve_mpp("native", 2.0) == 2.0
    assert resolve_mpp(None, 2.0) is None


@pytest.mark.parametrize("mpp", [250.0, 0.0, float("nan"), 1e300])
def test_a_setting_of_an_absurd_mpp_is_refused(mpp: float) -> None:
    with pytest.raises(ConfigError, match=r"slide_mpp is .*, expected 0\.05 to 20\.0 micro"):
        resolve_mpp(mpp, 0.5)


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


def test_slides_in_folders_below_are_found_where_there_are_none_above(tmp_path: Path) -> None:
    for name in ("1/x.svs", "2/deep/y.svs"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert [entry.slide_id for entry in slides_from_folder(tmp_path)] == ["x", "y"]
    table = write(tmp_path / "c.csv", "slide_id\ny\n")
    assert slides_from_cohort(table, tmp_path)[0].path == tmp_path / "2" / "deep" / "y.svs"
    (tmp_path / "z.svs").touch()
    assert [entry.slide_id for entry in slides_from_folder(tmp_path)] == ["z"]
    assert slides_from_cohort(table, tmp_path)[0].path == tmp_path / "2" / "deep" / "y.svs"


def test_only_a_named_slide_of_two_files_is_an_error(tmp_path: Path) -> None:
    for name in ("t1.svs", "t1.tif", "t2.tif"):
        (tmp_path / name).touch()
    table = write(tmp_path / "c.csv", "slide_id\nt2\nt1\n")
    good, bad = slides_from_cohort(table, tmp_path)
    assert good.path == tmp_path / "t2.tif"
    good.require_sound()
    with pytest.raises(SlideError, match=r"t1\.svs and t1\.tif would both be the slide 't1': name"):
        bad.open()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accented_names_meet_in_both_spellings_of_unicode(
    tmp_path: Path, form: Literal["NFC", "NFD"]
) -> None:
    other: Literal["NFC", "NFD"] = "NFD" if form == "NFC" else "NFC"
    file = tmp_path / normalize(form, "Größe") / f"{normalize(form, 'Größe_01')}.tif"
    file.parent.mkdir()
    file.touch()
    name = normalize(other, "Größe_01")
    table = write(tmp_path / "c.csv", f"slide_id\n{name}\n")
    (entry,) = slides_from_cohort(table, file.parent)
    assert (entry.slide_id, entry.path) == (normalize("NFC", name), file)
    assert slides_from_folder(file.parent)[0].slide_id == entry.slide_id
    path = normalize(other, "Größe/Größe_01.tif")
    table = write(tmp_path / "d.csv", f"slide_id,path\n{name},{path}\n")
    assert slides_from_cohort(table)[0].path == file


def test_a_path_that_no_system_takes_fails_alone(tmp_path: Path) -> None:
    write_plain(tmp_path / "a.tif", tissue(64, 64))
    text = f"slide_id,path\na,a.tif\nb,b\0.tif\nc,{'c' * 5000}.tif\n"
    good, nul, long = slides_from_cohort(write(tmp_path / "c.csv", text))
    assert good.open().mpp == 0.5
    with pytest.raises(SlideError, match=r"path 'b\?\.tif' holds a NUL character"):
        nul.open()
    with pytest.raises(SlideError, match="cannot be opened: File name too long"):
        long.open()
    ids = write(tmp_path / "d.csv", "slide_id\nb\0\n")
    with pytest.raises(SlideError, match=r"b\? does not exist"):
        slides_from_cohort(ids, tmp_path)[0].open()


@pytest.mark.parametrize(
    "field",
    ["#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "NA", "N/A", "nan", ""],
)
def test_what_spreadsheets_write_for_nothing_is_nothing(tmp_path: Path, field: str) -> None:
    frame = read_cohort(write(tmp_path / "c.csv", f"slide_id,label\na,{field}\nb,None\nc,null\n"))
    assert frame["label"].isna().tolist() == [True, False, False]


def test_a_line_of_more_fields_than_the_header_is_named(tmp_path: Path) -> None:
    for extra, line in (("", 2), ("b,p,1\n", 3)):
        # One field more on every line shifts all columns, on one line it is a comma in a name.
        table = write(tmp_path / "c.csv", f"slide_id,patient_id,label\n{extra}x,a,p,0\n")
        with pytest.raises(CohortError, match=rf"c\.csv: record {line} has 4 fields, the header 3"):
            read_cohort(table)


def test_empty_lines_and_trailing_commas_of_spreadsheets_are_passed_over(tmp_path: Path) -> None:
    text = "\ufeffslide_id, patient_id ,label\r\n007,p,1,\r\n,,\r\n\r\n008,q,,,\r\n"
    frame = read_cohort(write(tmp_path / "c.csv", text))
    assert list(frame.columns) == ["slide_id", "patient_id", "label"]
    assert frame["slide_id"].tolist() == ["007", "008"]
    assert frame["label"].tolist()[0] == 1.0


def test_a_quote_that_is_not_closed_is_named_and_notes_of_two_lines_are_read(
    tmp_path: Path,
) -> None:
    table = write(tmp_path / "c.csv", 'slide_id,label\na,"pos\nb,neg\nc,pos\n')
    with pytest.raises(
        CohortError, match=r"^[^\n]*c\.csv: the quote before 'pos' is not closed[^\n]*$"
    ):
        read_cohort(table)
    frame = read_cohort(write(table, 'slide_id,note\na,"two\nlines"\nb,5" tube\n'))
    assert frame["note"].tolist() == ["two\nlines", '5" tube']


def test_tables_that_are_none_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes("slide_id,label\na,1\n".encode("utf-16"))
    with pytest.raises(
        CohortError, match=r"c\.csv is not a CSV table in UTF-8 .*save it as CSV UTF-8"
    ):
        read_table(path, {})
    with pytest.raises(CohortError, match="has two columns 'label'"):
        read_table(write(path, "slide_id,label, label\na,1,2\n"), {})
    with pytest.raises(CohortError, match="cannot be read: Is a directory"):
        read_table(tmp_path, {})
    with pytest.raises(CohortError, match="is not a CSV table: field larger than field limit"):
        read_table(write(path, f"slide_id\n{'x' * 200_000}\n"), {})
