"""Pure statistics: CKA, knowledge gain, intervals, comparisons, calibration."""
