"""All domains made for real, one after the other, and the table of docs/domains.md.

    python benchmarks/domains.py --data ../shared/data                              # all seven: hours on two cores
    python benchmarks/domains.py --data ../shared/data --only legal moderation
    python benchmarks/domains.py --data ../shared/data --only legal --model clauses --in-process
    python benchmarks/domains.py --table                                            # what was made before, as a table

Each model is made by `soldiom run domain:NAME --data FOLDER --model MODEL --no-deploy` in a home whose services run
(`soldiom up`), or with --in-process in this process, which needs no service but the database of a home that has one
(`soldiom down` stops it) and registers nothing: `soldiom run` goes on from there. What was made before is reused, and
each model's scores are kept in SOLDIOM_HOME/domain-results. Four sets are brought into the form that a pack reads: the
clauses of LegalBench's CUAD tasks with their kind, two of its other tasks, and sentences in six languages
and varieties.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from results import best_trivial, rows, task_of, write

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.domains.metrics import METRICS
from soldiom_ray.domains.pack_runs import plan_run
from soldiom_ray.domains.recipes import validate_recipe, with_absolute_paths
from soldiom_ray.domains.specialists import packs
from soldiom_ray.errors import SoldiomError
from soldiom_ray.evaluate import evaluate
from soldiom_ray.prepare import prepare
from soldiom_ray.services.addresses import Addresses, load_addresses
from soldiom_ray.services.start import BY_NAME, ensure_service
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage
from soldiom_ray.train.driver import run_locally

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
    parser.add_argument("--in-process", action="store_true", help="without services; nothing is registered")
    parser.add_argument(
        "--tokens", type=int, help="in-process: tokens that a language model is trained on, and scored on, at most"
    )
    parser.add_argument("--answers", type=int, help="in-process: held-out questions that it answers at most")
    parser.add_argument("--table", action="store_true", help="make nothing; the rows of what was made before")
    options = parser.parse_args()
    settings = load_settings()
    folder, results = settings.home / "domain-data", settings.home / "domain-results"
    if not options.table:
        if not options.data.is_dir():
            print(f"skipped: the data sets are not at {options.data}")
            return
        gather(options.data, folder)
        results.mkdir(parents=True, exist_ok=True)
        if options.in_process and settings.database_url and "postgres" not in settings.external:
            ensure_service(settings, BY_NAME["postgres"], load_addresses(settings) or Addresses(), lambda line: None)
    print("| model | held out | metric | best trivial | base | tuned | tuned - base | tuned - trivial | gate | min |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for domain in options.only:
        for model in [options.model] if options.model else packs()[domain].models:
            record, name = results / f"{domain}-{model}.json", packs()[domain].models[model].registered
            try:
                made = kept(record) if options.table else measure(domain, model, folder, record, options)
            except (subprocess.CalledProcessError, SoldiomError) as error:
                print(f"| {name} | failed: {str(error).splitlines()[0]} |", flush=True)
                continue
            if made:
                print("\n".join(table(name, made)), flush=True)


def measure(domain: str, model: str, folder: Path, record: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make a model and keep its scores. A stage that was reused took as long as when it was made."""
    if options.in_process:
        made = make_here(domain, model, folder, options)
    else:
        made = make(domain, model, folder, options.base)
    before = kept(record)
    if before and before["metrics"]["run"] == made["metrics"]["run"]:
        earlier = before["seconds"]
        made["seconds"] = {stage: max(took or 0, earlier.get(stage) or 0) for stage, took in made["seconds"].items()}
    record.write_text(json.dumps({"made": datetime.now(UTC).isoformat(), **made}), encoding="utf-8")
    return made


def kept(record: Path) -> dict[str, Any]:
    """The scores of a model that was made before; empty without any."""
    return dict(json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else {}


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


def make(domain: str, model: str, folder: Path, base: str | None) -> dict[str, Any]:
    """Make a model as its users do: its scores, and the seconds of each stage, of which those reused cost nothing."""
    command = [str(Path(sys.executable).with_name("soldiom")), "run", f"domain:{domain}"]
    command += ["--data", str(folder)] if has_files(domain, model, folder) else []
    command += ["--model", model, "--no-deploy", "--json", *(["--base", base] if base else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    (item,) = json.loads(done.stdout)["items"]
    return {"metrics": item["metrics"], "seconds": item["seconds"]}


def make_here(domain: str, model: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make a model in this process: its scores, and the seconds that each stage took when it was made."""
    data = folder if has_files(domain, model, folder) else None
    content = plan_run(packs()[domain], data, {}, model=model, base=options.base, deploys=False).recipes[model]
    if content["train"].get("task", "causal_lm") == "causal_lm":
        for heading, key, most in (
            ("train", "max_tokens", options.tokens),
            ("evaluate", "max_tokens", options.tokens),
            ("evaluate", "answers", options.answers),
        ):
            if most:
                content[heading][key] = min(most, content[heading].get(key) or most)
    recipe = with_absolute_paths(validate_recipe(content, f"domain:{domain}, model {model}"))
    if not (recipe.collect and recipe.prepare and recipe.train and recipe.evaluate):
        raise ValueError(f"the recipe of {domain} {model} lacks a stage")
    settings = load_settings()
    context = Context(settings, Artifacts(open_storage(settings)), report)
    documents = collect(context, recipe.collect)
    dataset = prepare(context, [documents], recipe.prepare)
    run = run_locally(context, dataset, recipe.train)
    scored = evaluate(context, run, dataset, recipe.evaluate)
    stages = {"collect": documents, "prepare": dataset, "train": run, "evaluate": scored}
    seconds = {name: stage.seconds for name, stage in stages.items()}
    return {"metrics": scored.details, "seconds": seconds, "tokens": run.details.get("tokens")}


def has_files(domain: str, model: str, folder: Path) -> bool:
    """Whether the folder holds the model's files; one without is made from sources of its own."""
    return any((folder / path).exists() for path in packs()[domain].models[model].data.paths)


def report(fraction: float, message: str) -> None:
    """Progress, as lines of standard error."""
    print(f"{fraction:5.0%} {message}", file=sys.stderr, flush=True)


def table(name: str, made: Mapping[str, Any]) -> list[str]:
    """A row per metric that is shown; the first has the gate's verdict and the minutes."""
    lines, scores = [], made["metrics"]
    minutes = sum(filter(None, made["seconds"].values())) / 60
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
            f"{minutes:.1f}" if not lines else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def interval(difference: Mapping[str, float] | None) -> str:
    """A difference with its 95 % interval."""
    return "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**difference) if difference else "-"


if __name__ == "__main__":
    main()
