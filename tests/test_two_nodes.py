"""The workflow on a cluster of two nodes, training with one worker on each."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, Home
from test_workflow import recipe, write

CLUSTER = """
import os, subprocess, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
try:
    done = subprocess.run(sys.argv[1:], env=os.environ | {"RAY_ADDRESS": cluster.address})
finally:
    cluster.shutdown()
sys.exit(done.returncode)
"""


def test_the_workflow_runs_on_two_nodes(home: Home, sources: Path, tmp_path: Path) -> None:
    content = recipe(sources, name="two-nodes")
    content["train"] = content["train"] | {"workers": 2, "seed": 2}
    del content["deploy"], content["embed"]
    command = [sys.executable, "-c", CLUSTER, sys.executable, str(ROOT / "jobs/workflow.py"), write(tmp_path, content)]
    environ = home.environ | {"RAY_TMPDIR": f"/tmp/two-{os.getpid()}", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    job = json.loads(done.stdout[done.stdout.index("{") :])
    assert job["status"] == "completed"
    train = next(stage for stage in job["stages"] if stage["stage"] == "train")
    assert train["details"]["workers"] == 2
