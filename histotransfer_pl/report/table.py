"""A table twice: as numbers for the CSV file, as words for the page."""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

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
    """

    name: str
    caption: str
    frame: pd.DataFrame
    page: pd.DataFrame
    note: str = ""

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

    def write(self, folder: Path) -> Path:
        """Write the CSV file."""
        path = folder / f"{self.name}.csv"
        write_table(path, self.frame)
        return path
