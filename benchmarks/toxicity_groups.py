"""Errors of the toxicity model by dialect: how often harmless tweets are flagged, with and without marks of African
American English.

    python benchmarks/domains.py --data ../shared/data --only moderation --model toxicity --in-process
    python benchmarks/toxicity_groups.py            # in the same home: held-out tweets, a minute

The set does not name the dialects of its authors. A tweet counts as marked where it is spelt with one of `MARKS`,
forms that the literature names for written African American English (Blodgett and others 2016); others write so, too,
and many speakers do not. Answers are those of the calibrated model, abstention included.
"""

import json
import re
from collections.abc import Iterator

import numpy as np

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.metrics.resampling import wilson_interval
from soldiom_ray.models.classifier import Calibration, Classifier, probabilities
from soldiom_ray.models.labels import labels_of
from soldiom_ray.models.load import load_run
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage

MARKS = re.compile(r"(?i)\b(?:finna|gon|tryna|y'?all|dat|dis|dem|da|wit|ion|deez|imma|ima|naw|ain'?t)\b")
NEITHER = "2"


def main() -> None:
    settings = load_settings()
    record = settings.home / "domain-results" / "moderation-toxicity.json"
    if not record.is_file():
        print("skipped: the model has not been made; benchmarks/domains.py makes it")
        return
    scores, artifacts = json.loads(record.read_text())["metrics"], Artifacts(open_storage(settings))
    manifest = artifacts.get(scores["run"])
    rows = list(artifacts.rows(artifacts.get(scores["dataset"]), "test/", ["text", "metadata"]))
    texts, labels = [row["text"] for row in rows], [labels_of(row["metadata"])[0] for row in rows]
    fitted = Calibration.model_validate({name: scores["calibration"][name] for name in ("temperature", "threshold")})
    with load_run(artifacts, settings, manifest) as (model, processor):
        classifier = Classifier.taking_over(model, processor, int(manifest.details["sequence_length"]))
        given = list(answers(classifier, texts, fitted))
    print("| held-out tweets | of | flagged | not answered |\n|---|---|---|---|")
    for name, is_harmless in (("neither hateful nor offensive", True), ("hateful or offensive", False)):
        for kind, is_marked in (("marked", True), ("others", False)):
            chosen = [
                answer
                for text, label, answer in zip(texts, labels, given, strict=True)
                if (label == NEITHER) is is_harmless and bool(MARKS.search(text)) is is_marked
            ]
            flagged = sum(answer not in (None, NEITHER) for answer in chosen)
            shares = " | ".join(share(count, len(chosen)) for count in (flagged, chosen.count(None)))
            print(f"| {name}, {kind} | {len(chosen)} | {shares} |")


def answers(classifier: Classifier, texts: list[str], fitted: Calibration) -> Iterator[str | None]:
    """The label of each text, None where the model abstains."""
    for first in range(0, len(texts), 64):
        logits = classifier.logits(classifier.read(texts[first : first + 64]))
        for chances in probabilities(logits, multi_label=False, temperature=fitted.temperature):
            best = int(np.argmax(chances))
            yield classifier.names[best] if chances[best] > fitted.threshold else None


def share(count: int, of: int) -> str:
    """A share with its 95 % interval (Wilson)."""
    low, high = wilson_interval(count, of)
    return f"{count / max(of, 1):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
