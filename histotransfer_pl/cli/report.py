"""The verb `report`: finished runs -> one page, tables and figures."""

from pathlib import Path
from typing import Literal

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.parser import file_parser
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.report.build import Settings, build_report
from histotransfer_pl.runs.study import Study, load_runs, load_study

BoardName = Literal["wandb", "tensorboard", "mlflow"]


def report(arguments: list[str]) -> int:
    """Finished runs -> one self-contained HTML page, CSV tables, figures.

    Whatever is missing or failed is named on the page, and the rest is shown.
    """
    parser = file_parser("report", report.__doc__)
    parser.add_argument("--study_dir", type=Path, help="Folder of a study, with its plan.json.")
    parser.add_argument(
        "--runs", type=Path, nargs="+", help="Plain run folders to compare, instead of a study."
    )
    parser.add_argument(
        "--out", type=Path, help="Folder to write; STUDY_DIR/report, or report, by default."
    )
    parser.add_argument(
        "--boards",
        type=BoardName,
        nargs="+",
        default=[],
        help="Dashboards that get the report too.",
    )
    parser.add_class_arguments(Settings, as_group=False)
    config = parser.parse_args(arguments)
    settings = Settings(config.n_slides, config.top_k, config.resamples)
    study, folder = _source(config.study_dir, config.runs)
    written = build_report(study, config.out or folder, settings)
    if config.boards:
        from histotransfer_pl.callbacks.report_board import log_report, report_boards

        page = written.page
        tables = {table.name: table.page for table in page.tables()}
        boards = report_boards(config.boards, written.folder, page.name)
        log_report(boards, page.media(), tables, page.best())
    for task in written.page.tasks:
        said = task.summary
        value = f"{said.title} {said.estimate}" if said.estimate else said.support
        print_line(f"{said.headline}: {value}")
    if written.page.notice:
        print_line(written.page.notice)
    print_line(f"wrote {written.html}")
    record(files=(written.html,), metrics=written.page.best())
    return 0


def _source(study_dir: Path | None, runs: list[Path] | None) -> tuple[Study, Path]:
    if study_dir is not None and runs:
        raise ConfigError("--study_dir and --runs exclude each other: give one of them")
    if study_dir is not None:
        return load_study(study_dir), study_dir / "report"
    return load_runs(runs or []), Path("report")
