"""Measuring: metrics as functions of sums over samples, what is drawn and tested, and systems compared on the same
samples. It knows no stage and no model; `evaluate` makes the outcomes, and whoever shows scores may compare them
again."""
