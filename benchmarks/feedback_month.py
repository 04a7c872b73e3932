"""A month of feedback of which a fifth is malicious, accepted unread; then a week in which all of it is.

    soldiom up
    python benchmarks/feedback_month.py [--data FOLDER] [--rated 150] [--weeks 4]

A classifier of SMS begins with a few labelled messages. In each week users send it messages and rate the labels: four
fifths say what is true, one fifth always the opposite. A reviewer accepts everything, and `soldiom retrain` makes the
next version, or the gate keeps the old one. After the month comes a week in which every rating is malicious; where the
gate lets that version pass, honest users rate it, and `soldiom watch` has to send it back. Measured is the accuracy of
whatever answers under the model's name, on messages that no version has seen and whose labels nobody touched.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from soldiom_ray.settings import load_settings

DATA = Path(__file__).parents[2] / "shared" / "data"
NAME = "fine-tuned/sms-month"
USERS, MALICIOUS = 50, 10
HELD_OUT, FIRST = 600, 160
BATCH = 64

Message = tuple[str, str]
"""A text and its label."""


def soldiom(*arguments: str) -> Any:
    command = [str(Path(sys.executable).with_name("soldiom")), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"soldiom {' '.join(arguments)} ended with {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


class Service:
    """The model under its name, as users reach it."""

    def __init__(self) -> None:
        settings = load_settings()
        key = settings.local_key_path.read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        self.client = httpx.Client(base_url=settings.api_url, headers=headers, timeout=300, trust_env=False)

    def label(self, messages: Sequence[Message], user: str) -> Iterator[tuple[Message, str, str]]:
        """Each message, the label it got, and the answer's id."""
        for first in range(0, len(messages), BATCH):
            part = messages[first : first + BATCH]
            body = {"inputs": [text for text, _ in part], "user_id": user}
            answered = self._post(f"/api/inference/{NAME}/batch", body)
            for message, output in zip(part, answered["outputs"], strict=True):
                yield message, output["output"]["label"], output["id"]

    def accuracy(self, messages: Sequence[Message]) -> float:
        return sum(label == got for (_, label), got, _ in self.label(messages, "examiner")) / len(messages)

    def rate(self, answer_id: str, user: str, got: str, believed: str) -> str:
        body = {"answer_id": answer_id, "user_id": user, "rating": "up" if got == believed else "down"}
        body |= {"correction": believed} if got != believed else {}
        return str(self._post("/api/feedback", body)["id"])

    def accept(self, feedback_id: str) -> None:
        self._post(f"/api/feedback/{feedback_id}/accept", {})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        while True:
            response = self.client.post(path, json=body)
            if response.status_code != 429:
                response.raise_for_status()
                return response.json()
            time.sleep(float(response.headers.get("Retry-After", 1)))


def other(label: str) -> str:
    return "spam" if label == "ham" else "ham"


def week(service: Service, messages: Sequence[Message], malicious: int, *, accepts: bool) -> tuple[int, int]:
    """Users send messages and rate the labels; returns how many ratings, and how many of them malicious."""
    bad = 0
    for place in range(USERS):
        own = messages[place::USERS]
        lies = place < malicious
        for (_, true), got, answer_id in list(service.label(own, f"user-{place}")):
            given = service.rate(answer_id, f"user-{place}", got, other(true) if lies else true)
            bad += lies
            if accepts:
                service.accept(given)
    return len(messages), bad


def first_version(messages: Sequence[Message], folder: Path) -> None:
    with (folder / "messages.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(messages)
    recipe = {
        "name": NAME.rpartition("/")[2],
        "collect": [{"source": "files", "paths": [str(folder / "messages.csv")]}],
        "prepare": {"filters": [], "split": {"test": 0.3, "validation": 0.1}},
        "train": {"task": "text_classification", "base_model": "builtin/all-MiniLM-L6-v2", "head": "linear"},
        "evaluate": {"gate": {"metric": "accuracy", "beat": "baseline"}},
        "register": {},
        "deploy": {},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    soldiom("run", str(folder / "recipe.yaml"))


def report(what: str, service: Service, held_out: Sequence[Message], rated: int, bad: int, outcome: str) -> None:
    print(f"| {what} | {rated} | {bad} | {outcome} | {service.accuracy(held_out):.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rated", type=int, default=150)
    parser.add_argument("--weeks", type=int, default=4)
    options = parser.parse_args()
    with (options.data / "moderation_sms" / "train.jsonl").open() as lines:
        rows = {row["text"]: row["label"] for row in map(json.loads, lines) if len(row["text"]) > 20}
    messages = [(text, "ham" if label == "ham" else "spam") for text, label in rows.items()]
    random.Random(17).shuffle(messages)
    held_out, first, pool = messages[:HELD_OUT], messages[HELD_OUT : HELD_OUT + FIRST], messages[HELD_OUT + FIRST :]
    service, parts = Service(), iter(range(0, len(pool), options.rated))
    with tempfile.TemporaryDirectory() as folder:
        first_version(first, Path(folder))
    print("| after | ratings | malicious | retrained | accuracy of what answers |\n|---|---|---|---|---|")
    report("the first version", service, held_out, 0, 0, "-")
    for number in range(1, options.weeks + 2):
        begin = next(parts)
        attacked = number > options.weeks
        malicious = USERS if attacked else MALICIOUS
        rated, bad = week(service, pool[begin : begin + options.rated], malicious, accepts=True)
        made = soldiom("retrain", NAME, "--from-feedback")
        outcome = "promoted, served" if made["served"] else "the gate kept the one before"
        report(f"week {number}, {'an attack' if attacked else 'a fifth lies'}", service, held_out, rated, bad, outcome)
    if made["served"]:
        begin = next(parts)
        rated, bad = week(service, pool[begin : begin + 2 * options.rated], MALICIOUS, accepts=False)
        soldiom("watch")
        [watch] = [each for each in soldiom("watch")["items"] if each["model_id"] == made["id"]]
        report("honest users again", service, held_out, rated, bad, f"watch: {watch['status']} {watch['reason']}")


if __name__ == "__main__":
    main()
