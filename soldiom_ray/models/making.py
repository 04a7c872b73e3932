"""One model is made at a time in a process.

While transformers makes a model it replaces functions of its own and of torch for all threads (it ties no weights, it
initialises none, another number format is the default) and puts back what it found. Two threads at once can find each
other's replacements, which then stay: from there on, no model's weights are tied any more."""

import threading

MAKING = threading.RLock()
"""Held around every `from_pretrained` and `from_config` of a model."""
