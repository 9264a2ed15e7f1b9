"""The models of one arm of a study: its folds and seeds, as an ensemble."""

from collections.abc import Sequence
from pathlib import Path

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.runs.study import PlannedRun, load_study

_NOT_OF_THE_ARM = ("fold", "seed")


def find_models(places: Sequence[Path], arm: Sequence[str] = ()) -> list[Path]:
    """Model files and run folders, and for a study the runs of one arm.

    Args:
        places: Model files, run folders or study folders.
        arm: What the arm must have, such as ``depth=block3``; needed where a study has several.

    Raises:
        ConfigError: No such arm, or several.
    """
    found: list[Path] = []
    for place in places:
        if (place / "plan.json").is_file():
            found += [run.folder for run in _runs_of_arm(place, arm)]
        else:
            found.append(place)
    return found


def _runs_of_arm(folder: Path, arm: Sequence[str]) -> list[PlannedRun]:
    wanted = dict(_pair(word) for word in arm)
    runs = load_study(folder).runs
    arms: dict[tuple[tuple[str, str], ...], list[PlannedRun]] = {}
    for run in runs:
        factors = {k: str(v) for k, v in run.factors.items() if k not in _NOT_OF_THE_ARM}
        if all(factors.get(key) == value for key, value in wanted.items()):
            arms.setdefault(tuple(sorted(factors.items())), []).append(run)
    if len(arms) != 1:
        listed = {" ".join(f"{k}={v}" for k, v in sorted(f.items())) for f in _factors(runs)}
        raise ConfigError(
            f"{len(arms)} arms of {folder} have {' '.join(arm) or 'no condition'}: say which with "
            f"--arm key=value ...; its arms are: {'; '.join(sorted(listed))}"
        )
    own = next(iter(arms.values()))
    unfinished = [run for run in own if run.problem]
    if unfinished:
        raise ConfigError(
            f"{len(unfinished)} of {len(own)} runs of this arm are not finished "
            f"({unfinished[0].problem}): run the study again"
        )
    return own


def _factors(runs: Sequence[PlannedRun]) -> list[dict[str, str]]:
    return [{k: str(v) for k, v in run.factors.items() if k not in _NOT_OF_THE_ARM} for run in runs]


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise ConfigError(f"--arm holds {word!r}, expected key=value, such as depth=block3")
    return key, value
