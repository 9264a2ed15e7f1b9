"""What the validation part of a run says of its probabilities; it travels in the model file."""

from dataclasses import dataclass

from histotransfer_pl.records.record import Record


@dataclass(frozen=True)
class Calibration(Record):
    """How far the probabilities of a model can be trusted.

    Attributes:
        temperature: Its logits are divided by it.
        lacking: Of each validation slide 1 less the probability of its true class, rising.
        patients: Number of the patient of each.
    """

    temperature: float
    lacking: tuple[float, ...]
    patients: tuple[int, ...]

    @property
    def n_patients(self) -> int:
        """Patients that it rests on."""
        return len(set(self.patients))

    def in_words(self) -> str:
        """The slides and patients that it rests on."""
        return f"{len(self.lacking)} validation slides of {self.n_patients} patients"
