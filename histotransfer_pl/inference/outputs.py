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
    path = slide.attributes.get("path")
    if path is None:
        return
    words = SlideWords(slide.slide_id, run, f"predicted: {_in_words(row)}")
    write_attention_files(slide, str(path), attention, words, out / ATTENTION, top_k)


def write_page(
    out: Path,
    table: pd.DataFrame,
    failed: Mapping[str, str],
    models: Sequence[SlideClassifier],
) -> None:
    """``index.html``: a slide per row."""
    rows = "\n".join(_table_row(out, row) for row in table.to_dict("records"))
    lost = "".join(f"<li>{_safe(s)}: {_safe(r)}</li>" for s, r in sorted(failed.items()))
    names = "".join(
        f"<li>{_safe(model.name)} (id {model.id[:12]}): {_safe(model.features_in_words())}, "
        f"classes {_safe(', '.join(model.classes))}</li>"
        for model in models
    )
    unread = f"<h2>{len(failed)} slides without a prediction</h2><ul>{lost}</ul>" if failed else ""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{len(table)} slides</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}
td img {{ max-width: 100%; width: 34rem; display: block }}
table {{ display: block; overflow-x: auto }}</style></head><body><main>
<h1>{len(table)} slides classified</h1>
<p>Not for diagnosis. Probabilities are those of the model, and say nothing about slides unlike
those that it was trained on.</p><ul>{names}</ul>{unread}
<table><thead><tr><th>Slide</th><th>Patches</th><th>Prediction</th><th>Attention</th></tr></thead>
<tbody>
{rows}
</tbody></table></main></body></html>
"""
    write_text(out / "index.html", page)


def _table_row(out: Path, row: Mapping[Any, Any]) -> str:
    name = encode_key(str(row["slide_id"]))
    picture = f"{ATTENTION}/{name}.png"
    shown = "–"
    if (out / picture).is_file():
        source = picture.replace("%", "%25")
        shown = (
            f'<img loading="lazy" src="{source}" alt="Attention on slide {_safe(row["slide_id"])}">'
            f'<a href="{ATTENTION}/{name.replace("%", "%25")}.geojson">GeoJSON</a>'
        )
    return (
        f"<tr><td>{_safe(row['slide_id'])}</td><td>{row['patches']}</td>"
        f"<td>{_safe(_in_words(row))}</td><td>{shown}</td></tr>"
    )


def _in_words(row: Mapping[Any, Any]) -> str:
    predicted = row["predicted"]
    votes = f", {row['votes']} models" if isinstance(row.get("votes"), str) else ""
    return f"{predicted} ({100 * row[f'prob_{predicted}']:.1f} %{votes})"


def _safe(value: object) -> str:
    return html.escape(str(value))
