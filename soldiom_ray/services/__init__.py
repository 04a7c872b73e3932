"""The services of one home: Ray, PostgreSQL, Chroma, MLflow and the API on this machine.

Services are plain detached processes, recorded in `$SOLDIOM_HOME/run`, so any later process of the same user can probe,
repair or stop them. One more, the supervisor, restarts those that die; nothing else runs longer than the call that
asked for it.
"""

from soldiom_ray.records import LOOPBACK
from soldiom_ray.services.addresses import short_folder
from soldiom_ray.services.backup import back_up, restore
from soldiom_ray.services.diagnosis import doctor
from soldiom_ray.services.production import check_production
from soldiom_ray.services.start import down, status, up
from soldiom_ray.services.supervision import ensure as ensure_supervisor
from soldiom_ray.settings import Settings

__all__ = [
    "back_up",
    "check_production",
    "doctor",
    "down",
    "ensure_supervisor",
    "environment",
    "restore",
    "short_folder",
    "status",
    "up",
]


def environment(settings: Settings) -> dict[str, str]:
    """The variables that let other programs (`ray job submit`, MLflow's client) find this home's services."""
    values = {
        "SOLDIOM_HOME": str(settings.home),
        "RAY_ADDRESS": settings.dashboard_url,
        **LOOPBACK,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.ray_token_path),
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
    }
    return {name: value for name, value in values.items() if value}
