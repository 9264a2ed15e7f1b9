"""A table: as numbers for the CSV file, as words for the page and for LaTeX."""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from histotransfer_pl.records.files import write_text
from histotransfer_pl.records.tables import write_table


@dataclass(frozen=True, eq=False)
class Table:
    """A table of the report.

    Attributes:
        name: Stem of its CSV file.
        caption: What it shows.
        frame: The numbers.
        page: What the page shows, in strings.
        note: How to read it.
        latex: Whether it is also written for LaTeX (with booktabs), as the page shows it.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    page: pd.DataFrame
    note: str = ""
    latex: bool = False

    @property
    def columns(self) -> list[str]:
        """Headings of the page."""
        return [str(column) for column in self.page.columns]

    @property
    def rows(self) -> list[list[str]]:
        """Rows of the page."""
        return [[str(value) for value in row] for row in self.page.itertuples(index=False)]

    def shortened(self, rows: int) -> "Table":
        """The page shows the first rows and says where the others are."""
        hidden = len(self.page) - rows
        if hidden <= 0:
            return self
        note = f"{self.note} {hidden} more rows are in the CSV file.".strip()
        return replace(self, page=self.page.head(rows), note=note)

    def write(self, folder: Path) -> list[Path]:
        """Write the CSV file, and the LaTeX file if there is one."""
        written = [folder / f"{self.name}.csv"]
        write_table(written[0], self.frame)
        if self.latex:
            page = self.page.map(lambda cell: str(cell).replace("\n", " "))
            styled = page.style.hide(axis="index").format(escape="latex")
            styled = styled.format_index(escape="latex", axis=1)
            text = styled.to_latex(hrules=True, caption=self.caption, label=f"tab:{self.name}")
            written.append(folder / f"{self.name}.tex")
            write_text(written[1], text.replace("−", "$-$").replace("–", "--"))
        return written
