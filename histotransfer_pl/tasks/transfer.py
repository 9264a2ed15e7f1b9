"""What a stage-1 run hands over: its head, and the record that says where the head fits."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from histotransfer_pl.errors import ConfigError, StoreMismatchError
from histotransfer_pl.models.heads import MILHead
from histotransfer_pl.records.files import sha256_of
from histotransfer_pl.records.run import RunRecord
from histotransfer_pl.runs.checkpoints import check_record, read_checkpoint, read_record

_HEAD = "head."


@dataclass(frozen=True)
class Stage1:
    """A stage-1 checkpoint.

    Attributes:
        path: The file.
        sha256: Hash of its bytes, the id of the run.
        record: Features, classes, head and patients, as the run recorded them.
        head: State dict of the head.
        mean: Mean (D,) with which the run standardised features; (0,) if it did not.
        deviation: Deviation (D,), likewise.
    """

    path: Path
    sha256: str
    record: RunRecord
    head: dict[str, Tensor]
    mean: Tensor
    deviation: Tensor


def read_stage1(path: Path) -> Stage1:
    """Read the checkpoint of a stage-1 run.

    Args:
        path: The checkpoint, or the run folder (then its ``checkpoints/best.ckpt``).

    Raises:
        ConfigError: If there is no such checkpoint, or it is none of a stage-1 run.
        StoreMismatchError: If it does not say on which features it was trained.
    """
    file = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"no stage-1 checkpoint {file}: give the run folder of a finished fit of AttentionMIL"
        )
    content = read_checkpoint(file)
    record = read_record(content)
    state = content["state_dict"]
    if any(key.startswith("encoder.") for key in state):
        raise ConfigError(
            f"{file} is a fine-tuned run, which has no features of its own in a store: extract "
            "with its encoder.safetensors, run stage 1 on these features and give that run"
        )
    return Stage1(
        path=file,
        sha256=sha256_of(file),
        record=record,
        head={k.removeprefix(_HEAD): v for k, v in state.items() if k.startswith(_HEAD)},
        mean=state["feature_mean"],
        deviation=state["feature_deviation"],
    )


def check_stage1(stage1: Stage1, present: RunRecord) -> None:
    """Refuse a head that was trained on other features or classes, or is of another kind."""
    try:
        check_record(stage1.record, present, also=("selection", "standardized", "head.init_args"))
    except StoreMismatchError as error:
        raise StoreMismatchError(
            f"the head of {stage1.path} does not fit: {error}. Give the run that was trained on "
            "these features with model.stage1, and its head with model.head"
        ) from error


def transfer_head(stage1: Stage1, head: MILHead) -> None:
    """Copy the stage-1 weights into a head of the same settings."""
    own = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in stage1.head.items()}
    differing = [
        f"{key}: stage 1 {given.get(key)}, here {own.get(key)}"
        for key in sorted(own.keys() | given.keys())
        if own.get(key) != given.get(key)
    ]
    if differing:
        raise StoreMismatchError(
            f"the head of {stage1.path} has other settings: " + "; ".join(differing[:4]) + ". "
            "Repeat the head settings of stage 1 under model.head"
        )
    head.load_state_dict(stage1.head)
