"""A local HTTP server that plays GitHub and the Hugging Face Hub, for real clients. See `StandIn`."""

from stand_in.github import Secondary
from stand_in.hub import HubRepository
from stand_in.repository import Repository
from stand_in.server import StandIn

__all__ = ["HubRepository", "Repository", "Secondary", "StandIn"]
