"""Names of the splits of a dataset that a training reads."""

TRAIN, VALIDATION = "train", "validation"
