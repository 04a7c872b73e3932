"""Seconds from `soldiom train` typed to the first step that a user sees done, on services that are up.

    python benchmarks/first_step.py            # starts services in a home of its own, trains three times, stops them
    python benchmarks/first_step.py --quick    # once

The first training also starts what stays for the next ones (Ray Train's coordinator), and reads cold files. What is
timed ends when the job's row says `step 1` or more, so it holds up to three seconds of polling.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

SOLDIOM = str(Path(sys.executable).with_name("soldiom"))
TEXTS = [f"def add_{n}(a, b):\n    '''The sum of a and b, and of {n}.'''\n    return a + b + {n}\n" for n in range(400)]


def soldiom(*arguments: str) -> Any:
    """The JSON of a command."""
    done = subprocess.run(
        [SOLDIOM, *arguments, "--json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return json.loads(done.stdout)


def first_step(dataset: str, seed: int, workers: int) -> float:
    """Seconds until the first step of a new training is done."""
    from soldiom_ray import launch
    from soldiom_ray.settings import load_settings

    settings = load_settings()
    known = {job["id"] for job in soldiom("jobs", "list")["items"]}
    options = ["--base", "builtin/tiny", "--method", "full", "--max-tokens", "60000", "--workers", str(workers)]
    command = [SOLDIOM, "train", "--data", dataset, *options, "--set", f"seed={seed}", "--json"]
    began, taken, job = time.monotonic(), 0.0, None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None:
            if job is None:
                job = newest(settings, known)
            elif not taken:
                message = next((s["message"] or "" for s in launch.show_job(settings, job, None)["stages"]), "")
                step = message.removeprefix("step ").partition("/")[0]
                taken = time.monotonic() - began if message.startswith("step ") and int(step) else 0.0
            time.sleep(0.05)
    return taken


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def newest(settings: Any, known: set[str]) -> str | None:
    from soldiom_ray.db import jobs
    from soldiom_ray.db.engine import open_session

    with open_session(settings) as session:
        rows, _ = jobs.list_jobs(session, "default", status=None, limit=5)
        return next((row.id for row in rows if row.id not in known), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    print("| training | to the first step, s | load before |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="first-step-") as home:
        os.environ |= {"SOLDIOM_HOME": home, "SOLDIOM_API_PORT": str(free_port())}
        (Path(home) / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
        subprocess.run([SOLDIOM, "up"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            dataset = soldiom("prepare", f"{home}/texts.jsonl", "--license", "MIT", "--filters", "min_words")["id"]
            for seed in range(1 if options.quick else 3):
                load = psutil.getloadavg()[0]
                print(f"| {seed + 1} | {first_step(dataset, seed, options.workers):.1f} | {load:.1f} |", flush=True)
        finally:
            subprocess.run([SOLDIOM, "down"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
