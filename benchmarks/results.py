"""Every real set from files to verdict with the defaults: trivial baseline, base and tuned model on held-out data.

    python benchmarks/results.py --data ../shared/data                      # all sets, one after another
    python benchmarks/results.py --data ../shared/data --only sms --home /tmp/results --reports /tmp/reports

Each set is collected, prepared, trained and evaluated in this process as `soldiom run` does it, without services: text
on builtin/smollm2-135m-instruct with LoRA, labels with the defaults of `task: text_classification` (a linear head on
builtin/all-MiniLM-L6-v2), pictures on a small ViT from random weights. Two of LegalBench's tasks become sets of labels.
What is in `--home` is not made again: the same command goes on where it was interrupted, and prints the rows of
finished sets at once. The table is that of docs/results.md: of each metric the best trivial baseline, base, tuned, the
difference with its 95 % interval, and what the gate says. Where a set has documents or dialogues its split keeps them
whole. Columns and filters are those of docs/data.md.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.domains.metrics import METRICS
from soldiom_ray.domains.schema import Evaluate, Prepare, Train
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.evaluate import evaluate
from soldiom_ray.metrics.measurement import BASE, PREVIOUS, TUNED, UNCALIBRATED
from soldiom_ray.prepare import prepare
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train.driver import run_locally

TEXTS = {"base_model": "builtin/smollm2-135m-instruct", "method": "lora"}
LABELS = {"task": "text_classification"}
PICTURES = {
    "task": "image_classification",
    "method": "full",
    "epochs": 3,
    "architecture": {
        "model_type": "vit",
        "image_size": 28,
        "patch_size": 7,
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 192,
    },
}
SHORT_TEXTS = {"filters": ["near_duplicate"]}
SETS: dict[str, dict[str, Any]] = {
    "legal": {"files": {"paths": ["legal_plain_english"]}},
    "legalbench": {"files": {"paths": ["legal_legalbench/tasks.jsonl"]}, "prepare": SHORT_TEXTS},
    "unfair-terms": {
        "files": {"paths": ["legal_legalbench/tasks.jsonl"]},
        "of_task": "unfair_tos",
        "prepare": SHORT_TEXTS,
        "train": LABELS,
    },
    "overruling": {
        "files": {"paths": ["legal_legalbench/tasks.jsonl"]},
        "of_task": "overruling",
        "prepare": SHORT_TEXTS,
        "train": LABELS,
    },
    "pubmed": {"files": {"paths": ["medical_pubmedqa"]}},
    "acibench": {"files": {"paths": ["medical_acibench/train.jsonl"]}},
    "xray": {"files": {"paths": ["medical_pneumoniamnist"], "pictures": True}, "train": PICTURES},
    "techniques": {
        "files": {
            "paths": ["forensic_tram/sentences.jsonl"],
            "columns": {"text": "text", "label": "label", "group": "doc_title"},
        },
        "prepare": SHORT_TEXTS,
        "train": LABELS,
    },
    "timesketch": {"files": {"paths": ["forensic_timesketch/timeline.jsonl"]}},
    "tatqa": {"files": {"paths": ["financial_tatqa/tatqa_dataset_dev.json"]}},
    "hate": {
        "files": {"paths": ["moderation_hatespeech/train.jsonl"], "columns": {"text": "tweet", "label": "class"}},
        "prepare": SHORT_TEXTS,
        "train": LABELS,
    },
    "sms": {"files": {"paths": ["moderation_sms/train.jsonl"]}, "prepare": SHORT_TEXTS, "train": LABELS},
    "darija": {
        "files": {
            "paths": ["translation_darija/train.jsonl"],
            "columns": {"source": "english", "target": "darija"},
        },
        "prepare": SHORT_TEXTS,
    },
    "arabic": {
        "files": {
            "paths": ["translation_ntrex/train.jsonl"],
            "columns": {"source": "eng", "target": "arb", "group": "document"},
        },
        "prepare": SHORT_TEXTS,
    },
    "german": {
        "files": {
            "paths": ["translation_ntrex/train.jsonl"],
            "columns": {"source": "eng", "target": "deu", "group": "document"},
        },
        "prepare": SHORT_TEXTS,
    },
    "instruct": {"files": {"paths": ["instruct_short/train.jsonl"]}, "prepare": SHORT_TEXTS},
    "preferences": {
        "files": {"paths": ["instruct_short/preferences.jsonl"]},
        "prepare": SHORT_TEXTS,
        "train": TEXTS | {"task": "preference"},
    },
    "calls": {"files": {"paths": ["instruct_toolcall/train.jsonl"]}},
    "mbpp": {"files": {"paths": ["code_mbpp"]}},
    "chinook": {"files": {"paths": ["db_chinook/Chinook_Sqlite.sqlite"]}},
    "chinook-dump": {"files": {"paths": ["db_chinook/Chinook_PostgreSql.sql"]}},
    "documents": {"files": {"paths": ["documents"]}},
}
SHOWN = ("loss", "rouge_l", "chrf", "pass_at_1", "accuracy", "macro_f1", "calibration_error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--tokens", type=int, default=20_000, help="training tokens of a set of texts at most")
    parser.add_argument("--held-out", type=int, default=20_000, help="tokens, or labelled samples, scored at most")
    parser.add_argument("--home", type=Path, help="kept, so that an interrupted run goes on")
    parser.add_argument("--reports", type=Path, help="where the reports go")
    parser.add_argument("--quick", action="store_true", help="one set, few tokens")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: the data sets are not at {options.data}")
        return
    if options.quick:
        options.only, options.tokens = ["instruct"], 6_000
    print("| set | held out | metric | best trivial | base | tuned | tuned - base, 95 % | gate | seconds |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="results-") as folder:
        settings = load_settings({"SOLDIOM_HOME": str(options.home or folder)})
        context = Context(settings, Artifacts(open_storage(settings)), lambda fraction, message: None)
        for name in options.only:
            measure(context, name, options)


def measure(context: Context, name: str, options: argparse.Namespace) -> None:
    """One set from files to verdict: its rows of the table."""
    chosen = SETS[name]
    files = chosen["files"] | {"paths": [str(options.data / path) for path in chosen["files"]["paths"]]}
    if "of_task" in chosen:
        own = context.settings.home / f"{name}.jsonl"
        write(own, task_of(Path(files["paths"][0]), chosen["of_task"]))
        files["paths"] = [str(own)]
    split = {"by": "group", "test": 0.2, "validation": 0.05}
    declared = Prepare.model_validate({"license": {"use": "any"}, "split": split} | chosen.get("prepare", {}))
    documents = collect(context, [FilesSource.model_validate(files)])
    dataset = prepare(context, [documents], declared)
    training = chosen.get("train", TEXTS)
    budget = {} if training.get("task", "").endswith("classification") else {"max_tokens": options.tokens}
    run = run_locally(context, dataset, Train.model_validate(training | budget))
    scored = evaluate(context, run, dataset, Evaluate(max_tokens=options.held_out))
    scores = json.loads(context.artifacts.read(scored, "scores.json"))
    for line in table(name, scores, sum(each.seconds for each in (documents, dataset, run, scored))):
        print(line, flush=True)
    if options.reports:
        options.reports.mkdir(parents=True, exist_ok=True)
        (options.reports / f"{name}.html").write_bytes(context.artifacts.read(scored, "report.html"))


def task_of(path: Path, task: str) -> Iterator[dict[str, str]]:
    """Texts and answers of a task of LegalBench, each once; none names the document that it is from."""
    seen = set()
    for row in rows(path):
        if row["task"] == task and (text := row["text"].strip()) not in seen:
            seen.add(text)
            yield {"text": text, "label": row["answer"], "group": text[:80]}


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON Lines file; none where it is missing."""
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def write(path: Path, records: Iterator[dict[str, str]]) -> None:
    """Write a JSON Lines file, unless it is there: its time is part of what a collection is known by."""
    if not path.exists() and (texts := [json.dumps(record, ensure_ascii=False) + "\n" for record in records]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(texts), encoding="utf-8")


def table(name: str, scores: Mapping[str, Any], seconds: float) -> list[str]:
    """A row per metric that is shown; the first has the gate's verdict and the seconds."""
    lines = []
    for metric in (each for each in SHOWN if each in scores["tuned"]):
        trivial, best = best_trivial(scores, metric)
        difference = scores["difference"].get(metric)
        gate = "passed" if scores["gate"]["passed"] else "not passed"
        cells = [
            name if not lines else "",
            f"{scores['units'][metric]['samples']} {scores['units'][metric]['unit']}s",
            METRICS[metric].title,  # type: ignore[index]
            f"{best} {trivial[best]:.3f}" if best else "-",
            f"{scores['base'][metric]:.3f}" if metric in scores["base"] else "-",
            f"{scores['tuned'][metric]:.3f}",
            "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**difference) if difference else "-",
            gate if not lines else "",
            f"{seconds:.0f}" if not lines else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def best_trivial(scores: Mapping[str, Any], metric: str) -> tuple[dict[str, float], str]:
    """The trivial baselines' values of a metric, and the name of the best one ("" without any)."""
    trivial = {system: values[metric] for system, values in scores["systems"].items() if metric in values}
    for model in (BASE, TUNED, PREVIOUS, UNCALIBRATED):
        trivial.pop(model, None)
    pick = min if METRICS[metric].lower_is_better else max  # type: ignore[index]
    return trivial, pick(trivial, key=trivial.__getitem__) if trivial else ""


if __name__ == "__main__":
    main()
