"""Soldiom: open data and a team's own data become a specialised model behind an API."""

__version__ = "0.1.0"
