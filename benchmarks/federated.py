"""Federated training against training in one place and against each site alone, on a real set that is split unevenly.

    python benchmarks/federated.py /path/to/moderation_sms/train.jsonl --train 800 --test 600 --rounds 6

The set is the SMS Spam Collection (UCI 228, CC-BY-4.0). Five sites get shares of 40, 25, 17, 10 and 8 %, and of each
label an own share besides (Dirichlet), so that spam is rare at some and common at others. The sites are processes with
homes of their own, asked over TLS as `soldiom federate` asks them. All three ways train builtin/all-MiniLM-L6-v2 with
LoRA by the same settings and as many passes; the loss is that of messages that none of them has seen. Intervals are of
95 %, from paired resamples of these messages.

    --modes 'plain;secure={"secure_aggregation": true}' --no-comparison

says what masks cost, and that the result is the same but for rounding."""

import argparse
import hashlib
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.federation import Federate
from soldiom_ray.domains.schema import Train
from soldiom_ray.federate.coordinator import coordinate
from soldiom_ray.federate.site_settings import SiteSettings, create_site, free_port
from soldiom_ray.metrics.resampling import interval_of
from soldiom_ray.models.load import load_run
from soldiom_ray.records import Manifest, Sample
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train.driver import run_locally

SHARES = (0.40, 0.25, 0.17, 0.10, 0.08)
SKEW = 2.0
"""Parameter of the Dirichlet distribution by which sites differ in their share of a label: smaller is more uneven."""
LABELS = ("ham", "spam")
RESAMPLES = 10_000
Row = dict[str, str]
Losses = dict[str, "np.typing.NDArray[np.float64]"]
"""What was trained -> nats of every test message."""


def main() -> None:
    options = parse()
    logging.basicConfig(level=logging.WARNING)
    train, test = read(options.data, options.train, options.test)
    sides = split(train, options.seed)
    for number, rows in enumerate(sides):
        print(f"site {number}: {len(rows)} messages, {sum(row['label'] == 'spam' for row in rows)} spam", flush=True)
    declared = Train.model_validate(
        {
            "task": "text_classification", "rank": 8, "sequence_length": 64, "validations": 5,
            "patience": 5, "precision": "float32", "epochs": 1, "seed": options.seed,
            "batch_tokens": options.batch_tokens, "learning_rate": options.learning_rate,
        }
    )  # fmt: skip
    passes = declared.model_copy(update={"epochs": float(options.rounds)})
    results: dict[str, Any] = {}
    losses: Losses = {}
    with tempfile.TemporaryDirectory(prefix="soldiom-federated-") as place:
        folder = Path(place)
        coordinator = context_in(folder / "coordinator")
        homes = [make_site(folder / f"site{number}", f"site{number}", rows) for number, rows in enumerate(sides)]

        def tell(name: str, began: float, context: Context, run: Manifest, **more: Any) -> None:
            seconds = round(time.monotonic() - began, 1)
            values, losses[name] = scores(context, run, test)
            results[name] = values | {"seconds": seconds} | more
            print(json.dumps({name: results[name], "compared": compared(losses)}), flush=True)

        for mode in options.modes.split(";"):
            name, _, values = mode.partition("=")
            sites = {"sites": [str(home.settings.home) for home, _ in homes]}
            federate = {"rounds": options.rounds, "labels": LABELS} | sites | json.loads(values or "{}")
            began = time.monotonic()
            run = coordinate(coordinator, declared, Federate.model_validate(federate))
            tell(name, began, coordinator, run, **costs(run))
        if options.comparison:
            began = time.monotonic()
            tell("one place", began, coordinator, run_locally(coordinator, dataset(coordinator, train), passes))
            for number, (home, own) in enumerate(homes):
                began = time.monotonic()
                tell(f"site {number} alone", began, home, run_locally(home, own, passes))
    print(json.dumps({"scores": results, "compared": compared(losses)}, indent=2))


def costs(run: Manifest) -> dict[str, Any]:
    """What every round took: seconds, and bytes that the sites sent and got together."""
    made = run.details["federation"]
    names = ("seconds", "bytes_sent", "bytes_received")
    return {"validation": made["losses"]} | {name: [record[name] for record in made["rounds"]] for name in names}


def compared(losses: Losses) -> dict[str, Any]:
    """By how much the first one's loss is larger than each other's: in nats, and as a share of the other's."""
    first, *others = losses
    drawn = np.random.default_rng(0).integers(0, len(losses[first]), (RESAMPLES, len(losses[first])))
    means = {name: values[drawn].mean(axis=1) for name, values in losses.items()}
    told = {}
    for other in others:
        more = float(losses[first].mean() - losses[other].mean())
        pairs = {
            "nats": (more, means[first] - means[other]),
            "share": (more / float(losses[other].mean()), means[first] / means[other] - 1),
        }
        told[f"{first} - {other}"] = {
            unit: interval_of(mean, values, units=len(losses[first]), confidence=0.95).as_dict()
            for unit, (mean, values) in pairs.items()
        }
    return told


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--batch-tokens", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--modes", default="fedavg", help='NAME or NAME={"algorithm": "fedprox"}, by semicolons')
    parser.add_argument("--comparison", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def read(path: Path, train: int, test: int) -> tuple[list[Row], list[Row]]:
    """(train, test) messages without repetitions, in the order of their hashes."""
    rows = {row["text"]: row for row in map(json.loads, path.read_text().splitlines())}
    ordered = sorted(rows.values(), key=lambda row: hashlib.sha256(row["text"].encode()).digest())
    return ordered[test : test + train], ordered[:test]


def split(rows: list[Row], seed: int) -> list[list[Row]]:
    """The messages of each site."""
    dice = np.random.default_rng(seed)
    sides: list[list[Row]] = [[] for _ in SHARES]
    for label in LABELS:
        own = [row for row in rows if row["label"] == label]
        shares = dice.dirichlet(SKEW * len(SHARES) * np.array(SHARES))
        counts = np.maximum(4, np.floor(shares * len(own))).astype(int)
        counts[counts.argmax()] += len(own) - counts.sum()
        for side, part in zip(sides, np.split(np.array(own, dtype=object), counts.cumsum()[:-1]), strict=True):
            side.extend(part.tolist())
    return sides


def context_in(home: Path) -> Context:
    settings = load_settings({"SOLDIOM_HOME": str(home)})
    return Context(settings, Artifacts(open_storage(settings)), lambda fraction, message: None)


def make_site(home: Path, name: str, rows: list[Row]) -> tuple[Context, Manifest]:
    context = context_in(home)
    own = dataset(context, rows)
    create_site(
        context.settings, SiteSettings(name=name, dataset=own.id, approve="always"), f"https://127.0.0.1:{free_port()}"
    )
    return context, own


def dataset(context: Context, rows: list[Row]) -> Manifest:
    """A tenth is the validation side."""
    draft = context.artifacts.draft("dataset", {"rows": [row["text"] for row in rows]})
    counts = {}
    for side, chosen in (("validation", rows[::10]), ("train", [row for i, row in enumerate(rows) if i % 10])):
        values = [
            dict.fromkeys(Sample.model_fields, "")
            | {"id": f"{side}{number}", "text": row["text"], "split": side, "source": "user", "kind": "other"}
            | {"metadata": json.dumps({"label": row["label"]})}
            for number, row in enumerate(chosen)
        ]
        draft.write_rows(f"{side}/00000.parquet", values, Sample)
        counts[side] = len(values)
    return draft.commit(counts=counts)


def scores(context: Context, run: Manifest, test: list[Row]) -> "tuple[dict[str, Any], np.typing.NDArray[np.float64]]":
    """(loss (nats per message), accuracy and F1 of spam on the test messages; the loss of each)."""
    import torch

    losses, right, found, wanted, both = [], 0, 0, 0, 0
    with load_run(context.artifacts, context.settings, run, dtype="float32") as (model, tokenizer), torch.no_grad():
        model.eval()
        for start in range(0, len(test), 50):
            part = test[start : start + 50]
            batch = tokenizer(
                [row["text"] for row in part], truncation=True, max_length=64, padding=True, return_tensors="pt"
            )
            labels = torch.tensor([LABELS.index(row["label"]) for row in part])
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            losses += torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
            said = logits.argmax(-1)
            right += int((said == labels).sum())
            found, wanted, both = found + int(said.sum()), wanted + int(labels.sum()), both + int((said * labels).sum())
    values = {
        "loss": round(float(np.mean(losses)), 6),
        "accuracy": round(right / len(test), 4),
        "spam_f1": round(2 * both / max(1, found + wanted), 4),
    }
    return values, np.array(losses)


if __name__ == "__main__":
    main()
