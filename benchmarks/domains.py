"""All domains made for real, one after the other, and the table of docs/domains.md.

    python benchmarks/domains.py --data ../shared/data                 # all seven: hours on two cores
    python benchmarks/domains.py --data ../shared/data --only legal moderation

Needs a home whose services run (`soldiom up`). Each domain is made by `soldiom run domain:NAME --data FOLDER
--no-deploy`, and what was made before is reused. Four sets are brought into the form that a pack reads:
the clauses of LegalBench's CUAD tasks with the kind that they are of, two of its other tasks, and
sentences in six languages and varieties.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from results import best_trivial

from soldiom_ray.domains.metrics import METRICS
from soldiom_ray.domains.specialists import packs
from soldiom_ray.settings import load_settings

SHOWN = (
    "loss",
    "rouge_l",
    "chrf",
    "token_f1",
    "pass_at_1",
    "accuracy",
    "macro_f1",
    "auroc",
    "calibration_error",
    "coverage",
    "answered_error",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", nargs="*", default=list(packs()), choices=list(packs()))
    parser.add_argument("--model", help="of one domain: make this model only")
    parser.add_argument("--base", help="another base for the language models")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: the data sets are not at {options.data}")
        return
    folder = load_settings().home / "domain-data"
    gather(options.data, folder)
    print(
        "| model | held out | metric | best trivial | base | tuned | tuned - base, 95 % | tuned - trivial | gate | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.only:
        for line in make(name, folder, options):
            print(line, flush=True)


def gather(data: Path, folder: Path) -> None:
    """A folder with links to the sets, and those that are made of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in data.iterdir():
        link = folder / source.name
        if not link.is_symlink():
            link.symlink_to(source.absolute())
    write(folder / "legal_clauses.jsonl", clauses(data / "legal_legalbench" / "tasks.jsonl"))
    tasks = data / "legal_legalbench" / "tasks.jsonl"
    write(folder / "legal_unfair_terms.jsonl", task_of(tasks, "unfair_tos"))
    write(folder / "legal_overruling.jsonl", task_of(tasks, "overruling"))
    write(folder / "language_varieties.jsonl", varieties(data))


def clauses(path: Path) -> Iterator[dict[str, str]]:
    """The clauses that are of the kind that their task asks about, each once, by the contract that they are from."""
    seen = set()
    for row in rows(path):
        if row["task"].startswith("cuad_") and row["answer"] == "Yes" and row["text"] not in seen:
            seen.add(row["text"])
            kind = re.sub(r"[_-]+", " ", row["task"].removeprefix("cuad_"))
            yield {"text": row["text"], "label": kind, "group": row.get("document_name") or row["text"][:60]}


def task_of(path: Path, task: str) -> Iterator[dict[str, str]]:
    """Texts and answers of a task of LegalBench, each once; none names the document that it is from."""
    seen = set()
    for row in rows(path):
        if row["task"] == task and (text := row["text"].strip()) not in seen:
            seen.add(text)
            yield {"text": text, "label": row["answer"], "group": text[:80]}


def varieties(data: Path) -> Iterator[dict[str, str]]:
    """The sentences of NTREX in each of its languages, by the document that they are from; and as many in Moroccan
    Arabic in Latin script, by twenty that follow one another."""
    count = 0
    for row in rows(data / "translation_ntrex" / "train.jsonl"):
        count += 1
        for name in ("arb", "mey", "eng", "fra", "deu"):
            yield {"text": row[name], "label": name, "group": row["document"]}
    for number, row in enumerate(islice(rows(data / "translation_darija" / "train.jsonl"), count)):
        yield {"text": row["darija"], "label": "ary", "group": f"darija {number // 20}"}


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON Lines file; none where it is missing."""
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def write(path: Path, records: Iterator[dict[str, str]]) -> None:
    """Write a JSON Lines file, unless it is there: its time is part of what a collection is known by."""
    if not path.exists() and (texts := [json.dumps(record, ensure_ascii=False) + "\n" for record in records]):
        path.write_text("".join(texts), encoding="utf-8")


def make(name: str, folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Make a domain's models: their rows of the table."""
    command = [str(Path(sys.executable).with_name("soldiom")), "run", f"domain:{name}", "--data", str(folder)]
    command += ["--no-deploy", "--json"]
    for option in ("model", "base"):
        command += [f"--{option}", value] if (value := getattr(options, option)) else []
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        yield f"| {name} | failed after {time.monotonic() - began:.0f} s |"
        return
    for item in json.loads(done.stdout)["items"]:
        record = folder.parent / "domain-results" / f"{name}-{item['model']}.json"
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(item | {"wall": time.monotonic() - began}), encoding="utf-8")
        yield from table(item["registered_as"], item["metrics"], sum(filter(None, item["seconds"].values())))


def table(name: str, scores: Mapping[str, Any], seconds: float) -> list[str]:
    """A row per metric that is shown; the first has the gate's verdict and the seconds."""
    lines = []
    for metric in (each for each in SHOWN if each in scores["tuned"]):
        trivial, best = best_trivial(scores, metric)
        against = scores["comparisons"].get(best, {}).get(metric) if best else None
        held_out = f"{scores['documents']} of {scores['groups']} groups"
        cells = [
            name if not lines else "",
            f"{scores['answers']['count']} answers" if "answers" in METRICS[metric].parts else held_out,  # type: ignore[index]
            METRICS[metric].title,  # type: ignore[index]
            f"{best} {trivial[best]:.3f}" if best else "-",
            f"{scores['base'][metric]:.3f}" if metric in scores["base"] else "-",
            f"{scores['tuned'][metric]:.3f}",
            interval(scores["difference"].get(metric)),
            interval(against),
            ("passed" if scores["gate"]["passed"] else "not passed") if not lines else "",
            f"{seconds:.0f}" if not lines else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def interval(difference: Mapping[str, float] | None) -> str:
    """A difference with its 95 % interval."""
    return "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**difference) if difference else "-"


if __name__ == "__main__":
    main()
