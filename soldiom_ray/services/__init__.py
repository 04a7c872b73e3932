"""The services of one home: Ray, PostgreSQL, Chroma, MLflow and the API on this machine.

Nothing here runs longer than the call that asked for it: services are plain detached processes, recorded in
`$SOLDIOM_HOME/run`, so any later process of the same user can probe, repair or stop them.
"""

from soldiom_ray.services.addresses import short_folder
from soldiom_ray.services.diagnosis import doctor
from soldiom_ray.services.start import down, status, up
from soldiom_ray.settings import Settings

__all__ = ["doctor", "down", "environment", "short_folder", "status", "up"]


def environment(settings: Settings) -> dict[str, str]:
    """The variables that let other programs (`ray job submit`, MLflow's client) find this home's services."""
    values = {
        "SOLDIOM_HOME": str(settings.home),
        "RAY_ADDRESS": settings.dashboard_url,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.ray_token_path),
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
    }
    return {name: value for name, value in values.items() if value}
