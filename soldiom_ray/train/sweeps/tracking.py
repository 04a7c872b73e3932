"""How the trials of a sweep ended, in MLflow: runs below the sweep's own one."""

import logging
import os
from collections.abc import Mapping

from soldiom_ray.train.sweeps.trials import TrialStatus
from soldiom_ray.train.tracking import PATIENCE

log = logging.getLogger(__name__)
RUN_STATUS: Mapping[TrialStatus, str] = {"completed": "FINISHED", "failed": "FAILED"}
"""Of the others, which were stopped, MLflow says KILLED."""
STATUS_TAG = "soldiom.trial_status"


def settle_trials(url: str | None, parent_run: str | None, statuses: Mapping[int, TrialStatus]) -> None:
    """Write how every trial ended; a trial that Ray Tune stops may have had no time to. `statuses` are by number. An
    MLflow that is away changes nothing but this."""
    if url is None or parent_run is None:
        return
    os.environ.update(PATIENCE)
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=url)
    try:
        experiment = client.get_run(parent_run).info.experiment_id
        for run in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent_run}'", max_results=1000):
            status = statuses.get(int(run.data.tags.get("soldiom.trial", 0)))
            if status is not None:
                client.set_tag(run.info.run_id, STATUS_TAG, status)
                client.set_terminated(run.info.run_id, status=RUN_STATUS.get(status, "KILLED"))
    except Exception as error:  # whatever MLflow's client or the network raises: tracking must not end a sweep
        log.warning("MLflow did not take how the trials ended", extra={"data": {"error": type(error).__name__}})
