"""Defaults that the command line, the API and a service share; those of a recipe stand in its schema. Imports nothing
that `soldiom --help` would wait for."""

from typing import Literal

Mode = Literal["hybrid", "dense", "lexical"]
"""dense: by meaning; lexical: by words; hybrid: both, fused."""
MODE: Mode = "hybrid"
PASSAGES = 5
MOST_PASSAGES = 100
"""In one answer."""
PLANNED_GPU_GIB = 80
"""Memory of a GPU that is planned for and not there, where nothing says how much it has."""
REQUEST_CHARACTERS = 1_000_000
"""Most characters of one request to a model."""
DEFAULT_MAX_TOKENS = 128
"""New tokens when a request names no number, or fewer where the context ends before."""
