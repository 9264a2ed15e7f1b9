"""Two arms on the same slides of the same patients."""

from histotransfer_pl.analysis.compare import Comparison, delong, paired_test
from histotransfer_pl.runs.arms import Arm


def compare_arms(first: Arm, second: Arm) -> Comparison:
    """AUROC of two arms on the trainings that both have, and the paired test of the difference.

    Raises:
        AnalysisError: They share no training, or were tested on other slides.
    """
    cells = set(first.cells) & set(second.cells)
    a, b = first.predictions(cells), second.predictions(cells)
    test = delong if a.n_classes == b.n_classes == 2 else paired_test
    return test(a, b)
