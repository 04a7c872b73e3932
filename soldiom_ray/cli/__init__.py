"""The command line: `soldiom`. Every command takes `--json`; errors go to stderr with the exit code of their type."""

from soldiom_ray.cli.app import main

__all__ = ["main"]
