"""What `apply` shows: attention of each slide, and one page with a slide per row."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.records.files import write_text
from histotransfer_pl.report.attention_figure import SlideWords
from histotransfer_pl.report.attention_files import write_attention_files
from histotransfer_pl.runs.model import SlideClassifier
from histotransfer_pl.store.layout import encode_key
from histotransfer_pl.store.slide import StoredSlide

ATTENTION = "attention"
_CSS = (Path(__file__).parent.parent / "report" / "page.css").read_text(encoding="utf-8")


def write_pictures(
    slide: StoredSlide,
    attention: NDArray[np.float64],
    row: Mapping[str, Any],
    out: Path,
    top_k: int,
    run: str,
) -> None:
    """Attention of one slide as GeoJSON and picture; features without slides have none."""
    if slide.attributes.get("path") is None:
        return
    words = SlideWords(slide.slide_id, run, f"predicted: {_in_words(row)}")
    write_attention_files(slide, attention, words, out / ATTENTION, top_k)


def write_page(
    out: Path,
    table: pd.DataFrame,
    bags: Mapping[str, Sequence[str]],
    failed: Mapping[str, str],
    models: Sequence[SlideClassifier],
    basis: str,
) -> None:
    """``index.html``: a slide, or a patient with all slides, per row.

    Args:
        out: Folder of the results.
        table: A row per bag, whose name comes first.
        bags: The slides of each bag.
        failed: Slides without a prediction, and why.
        models: The models.
        basis: What calibrated probabilities and sets rest on.
    """
    first = str(table.columns[0])
    rows = "\n".join(
        _table_row(out, str(row[first]), bags[str(row[first])], row)
        for row in table.to_dict("records")
    )
    what = first.removesuffix("_id")
    lost = "".join(f"<li>{_safe(s)}: {_safe(r)}</li>" for s, r in sorted(failed.items()))
    names = "".join(
        f"<li>{_safe(model.name)} (id {model.id[:12]}): {_safe(model.features_in_words())}, "
        f"predicts {_safe(', '.join(model.classes) or model.record.target.column)}</li>"
        for model in models
    )
    if len(models) > 1:
        names = f"<details><summary>{len(models)} models</summary><ul>{names}</ul></details>"
    else:
        names = f"<ul>{names}</ul>"
    unread = f"<h2>{len(failed)} slides without a prediction</h2><ul>{lost}</ul>" if failed else ""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{len(table)} {what}s</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}
td img {{ max-width: 100%; width: 34rem; display: block }}
table {{ display: block; overflow-x: auto }}
@media (max-width: 44rem) {{ td:last-child {{ display: block; text-align: left }} }}</style></head>
<body><header>
<h1>{len(table)} {what}s</h1></header><main>
<p>Not for diagnosis. Predictions are those of the model, and say nothing about slides unlike
those that it was trained on. {_safe(basis[:1].upper() + basis[1:])}</p>{names}{unread}
<table><thead><tr><th>{what.capitalize()}</th><th>Patches</th><th>Prediction</th><th>Attention</th></tr></thead>
<tbody>
{rows}
</tbody></table></main></body></html>
"""
    write_text(out / "index.html", page)


def _table_row(out: Path, bag: str, slide_ids: Sequence[str], row: Mapping[Any, Any]) -> str:
    pictures = "".join(_picture(out, slide_id) for slide_id in slide_ids)
    return (
        f"<tr><th scope=row>{_safe(bag)}</th><td data-label=Patches>{row['patches']}</td>"
        f"<td data-label=Prediction>{_safe(_in_words(row))}</td><td>{pictures or '–'}</td></tr>"
    )


def _picture(out: Path, slide_id: str) -> str:
    stem = f"{ATTENTION}/{encode_key(slide_id)}"
    if not (out / f"{stem}.png").is_file():
        return ""
    source = stem.replace("%", "%25")
    return (
        f'<img loading="lazy" src="{source}.png" alt="Attention on slide {_safe(slide_id)}">'
        f'<a href="{source}.geojson">GeoJSON</a>'
    )


def _in_words(row: Mapping[Any, Any]) -> str:
    votes = "votes" in row and "predicted" in row
    return f"{row['in_words']}" + (f", {row['votes']} models" if votes else "")


def _safe(value: object) -> str:
    return html.escape(str(value))
