"""What one YAML says of a whole comparison."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from histotransfer_pl.data.stored_depths import StoredDepths
from histotransfer_pl.encoders.config import EncoderConfig, Method
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.outcomes.kinds import TargetColumns, target_of_settings
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.records.run import TaskKind
from histotransfer_pl.study.resources import check_resources

if TYPE_CHECKING:
    Settings = dict[str, Any]
else:
    # Of a dict[str, Any] the parser takes every class_path for a class that it should make.
    Settings = dict

_LOGGERS = {"tensorboard": "TensorBoardLogger", "mlflow": "MLFlowLogger"}
Variant = Literal["frozen", "topk", "random", "bottom"]
"""Features of the encoder as it came, or after tuning on the top, random or bottom k patches."""


@dataclass(frozen=True)
class Preparation:
    """A command that runs before everything else.

    Attributes:
        command: A verb and its settings, as on the command line.
        outputs: Files whose existence means that it is done.
    """

    command: str
    outputs: list[Path]


@dataclass(frozen=True)
class StoredFeatures:
    """Features that the store has without an extraction, from `import`."""

    encoder: str
    depth: str


@dataclass(frozen=True)
class Folds:
    """Patient folds: one tests, the next validates, the rest trains.

    Attributes:
        n_folds: Number of folds.
        run: Which of them to test on; all when null. With `column` it must be given.
        split_seed: Seed of the folds.
        column: Take the split from this column of the cohort instead; `n_folds` and `split_seed`
            then mean nothing. A column of words (train, validation, test) is one split, whatever
            the fold: `run` names one number, such as [0]. Of a column of fold numbers, `run` names
            those to test on.

    Raises:
        ConfigError: A column without `run`.
    """

    n_folds: int = 5
    run: list[int] | None = None
    split_seed: int = 0
    column: str | None = None

    def __post_init__(self) -> None:
        # The plan does not read the cohort, and n_folds says nothing of the column.
        if self.column is not None and self.run is None:
            raise ConfigError(
                f"folds.column is {self.column} and folds.run is not given: for a column of words "
                "(train, validation, test) give folds.run one number, such as [0]; for a column "
                "of fold numbers give those to test on"
            )

    @property
    def numbers(self) -> list[int]:
        """The test folds to run."""
        return list(range(self.n_folds)) if self.run is None else self.run


@dataclass(frozen=True)
class Tuning:
    """How encoders are tuned on k patches of each slide, for the variants other than `frozen`.

    Attributes:
        encoders: Encoders (their names in the store) to tune; all that are extracted when null.
        depth: Depth at which the tuned encoder ends; its last one in this study when null.
        head: Head of stage 1, whose attention selects and which is tuned on; the first when null.
        folds: Folds to tune on; all of the study when null.
        seeds: Seeds to tune with; the first of the study when null.
        k: Patches of each slide.
        methods: What of the encoder is trained: `full`, `lora` (low-rank adapters), `last_blocks`;
            each makes runs of its own, `topk+lora` beside `topk`.
        fit: Settings of the fine-tuning run: `model`, `data`, `trainer`, `checkpoint`.
    """

    encoders: list[str] | None = None
    depth: str | None = None
    head: str | None = None
    folds: list[int] | None = None
    seeds: list[int] | None = None
    k: int = 64
    methods: list[Method] = field(default_factory=lambda: ["full"])
    fit: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """Knowledge gain per layer of an encoder, measured with a linear probe.

    Attributes:
        encoder: Name in the store of the encoder. With `tiles` in the options all its depths are
            probed on labelled tiles; else those of this study, on the mean features of slides.
            Either way the random networks are made within the step, their BatchNorm statistics
            re-estimated on the images unless `random_batchnorm` in the options says otherwise.
        random_seeds: Random networks to compare with, at least five.
        options: Further settings of the verb `gain`, such as `tiles` and `label`.
        name: Name of the curve; the encoder's when null.
    """

    encoder: str
    random_seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    options: Settings = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True)
class Pair:
    """Two encoders whose representations are compared, block by block.

    Attributes:
        first: Name in the store.
        second: Name in the store, `tuned` (the first as it was tuned in the first fold; by the
            first of `tuning.methods`, or by the one in `tuned+lora`), or `random` (the first with
            random weights).
        options: Further settings of the verb `similarity`, such as `data.n_patches`.
    """

    first: str
    second: str
    options: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class StudyConfig:
    """A comparison of encoders, depths, heads and variants over folds and seeds.

    Attributes:
        name: Name of the study.
        note: What a reader of the report must know of the data; stands at its top.
        cohort: CSV table with `slide_id`, `patient_id` and the target column.
        heads: Named heads, each with `class_path` and `init_args`.
        study_dir: Folder of everything the study writes; `studies/<name>` when null.
        encoders: Encoders to extract features with, and their depths.
        features: Features that are in the store already.
        store: What is kept of the depths: every patch of all, unless it says otherwise.
        target: Column with the class or value of each slide; for survival the columns of time and
            event, for several labels one column each.
        task: Kind of the target: `classification`, `ordinal`, `multilabel`, `regression` or
            `survival`.
        slides: Folder of the slides; not needed when the cohort has a column `path`.
        slide_mpp: Micrometres per pixel of slides whose file does not say it.
        grid: How slides are cut into patches.
        prepare: Commands that run first.
        extract: Further settings of `extract`: `data`, `model`, `trainer`.
        fit: Further settings of `fit` and `test`: `model`, `data`, `trainer`, `checkpoint`.
        variants: `frozen`, and how encoders are tuned: on `topk`, `random` or `bottom` patches.
        tuning: How.
        folds: Folds of patients.
        seeds: Seeds of each fit.
        external: Table of another cohort. Every fit of the variant `frozen`, and the ensemble of
            its folds, is tested on all slides of it that have a label.
        external_slides: Folder of its slides; not needed when the table has a column `path`.
        external_slide_mpp: As `slide_mpp`, for its slides.
        external_store: Store that has its features already; they are extracted when null.
        attention: Also write the attention of every patch, for every fit.
        costs: Also measure speed and memory of the encoders at their depths.
        similarity: Pairs of encoders to compare by CKA.
        gain: Encoders whose knowledge gain is measured.
        report: Also write the report page.
        lost_slides: `refuse`: slides that cannot be read stop what depends on them; `leave_out`:
            the study goes on without them.
        wandb: Log each run, and the report as a run of its own, to Weights & Biases; costs one to
            two seconds per run. TensorBoard and MLflow, if they are `fit.trainer.logger`, get the
            report too.
        resources: What steps ask of a cluster's machine, of `all` kinds or of one, such as
            `{all: {mem_gb: 16}, extract: {gpus: 1, partition: gpu}}`: `minutes`, `partition`,
            `mem_gb`, `cpus`, `gpus`, `sbatch` (further options).
        fit_threads: Threads of fit, test and predict; one is fastest for bags of few patches. All
            of the machine when null.
    """

    name: str
    cohort: Path
    heads: dict[str, Settings]
    study_dir: Path | None = None
    note: str = ""
    encoders: list[EncoderConfig] = field(default_factory=list)
    features: list[StoredFeatures] = field(default_factory=list)
    store: StoredDepths = field(default_factory=StoredDepths)
    target: str | list[str] = "label"
    task: TaskKind = "classification"
    slides: Path | None = None
    slide_mpp: float | None = None
    grid: GridSettings = field(default_factory=GridSettings)
    prepare: list[Preparation] = field(default_factory=list)
    extract: Settings = field(default_factory=dict)
    fit: Settings = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=lambda: ["frozen"])
    tuning: Tuning = field(default_factory=Tuning)
    folds: Folds = field(default_factory=Folds)
    seeds: list[int] = field(default_factory=lambda: [0])
    external: Path | None = None
    external_slides: Path | None = None
    external_slide_mpp: float | None = None
    external_store: Path | None = None
    attention: bool = True
    costs: bool = False
    similarity: list[Pair] = field(default_factory=list)
    gain: list[Probe] = field(default_factory=list)
    report: bool = True
    lost_slides: Literal["refuse", "leave_out"] = "refuse"
    wandb: bool = False
    resources: Settings = field(default_factory=dict)
    fit_threads: int | None = 1

    def __post_init__(self) -> None:
        if self.study_dir is None and (self.name in ("", ".", "..") or {*"/\\"} & {*self.name}):
            raise ConfigError(
                f"name is {self.name!r}, which is no name of a folder in studies/: leave out "
                "slashes, or give study_dir"
            )
        if not self.encoders and not self.features:
            raise ConfigError("the study names no encoders and no features: give one of them")
        if self.external is not None and self.features and self.external_store is None:
            raise ConfigError(
                "the study reads features that it does not extract, so external_store must name "
                "the store that has them for the slides of external"
            )
        if not self.heads:
            raise ConfigError("the study names no heads: give at least one, with its class_path")
        if not self.seeds or not self.folds.numbers:
            raise ConfigError("seeds and folds.run must name at least one each")
        if "frozen" not in self.variants:
            raise ConfigError("variants must hold frozen: tuned encoders start from its stage 1")
        check_resources(self.resources)
        _refuse_repeats("seeds", self.seeds)
        _refuse_repeats("folds.run", self.folds.numbers)
        _refuse_repeats("variants", self.variants)
        _refuse_repeats("encoders", self.encoder_names)
        _refuse_repeats("tuning.methods", self.tuning.methods)
        if not self.tuning.methods or "frozen" in self.tuning.methods:
            raise ConfigError(
                f"tuning.methods is {self.tuning.methods}: name full, lora or last_blocks; frozen "
                "features are the variant frozen"
            )

    @property
    def folder(self) -> Path:
        """Folder of everything the study writes."""
        return self.study_dir or Path("studies") / self.name

    @property
    def store_path(self) -> Path:
        """The store of the study."""
        return self.folder / "store.zarr"

    @property
    def targets(self) -> TargetColumns:
        """The target as the fits will ask for it."""
        given = {"target": self.target, "task": self.task}
        return target_of_settings({**self.fit.get("data", {}), **given})

    @property
    def encoder_names(self) -> list[str]:
        """Names in the store of the encoders to extract with."""
        return [encoder.store_name for encoder in self.encoders]

    @property
    def tuned_variants(self) -> list[Variant]:
        """The variants that need tuning."""
        return [variant for variant in self.variants if variant != "frozen"]

    @property
    def boards(self) -> list[str]:
        """The dashboards of its fits, which get the report too."""
        chosen = self.fit.get("trainer", {}).get("logger")
        named = [board for board, name in _LOGGERS.items() if name in str(chosen)]
        return [*(["wandb"] if self.wandb else []), *named]


def _refuse_repeats(what: str, values: list[Any]) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ConfigError(f"{what} holds {', '.join(twice)} more than once: name each once")
