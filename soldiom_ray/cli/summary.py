"""Summary that a workflow prints at its end: scores, seconds per stage, addresses, and what to try next."""

import base64
import json
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

from soldiom_ray.cli.client import call
from soldiom_ray.cli.output import output_text, print_table, say
from soldiom_ray.domains.metrics import in_order, title_of
from soldiom_ray.domains.tasks import CAUSAL_LM, CHAT_TASKS, IMAGE_CLASSIFICATION
from soldiom_ray.settings import Settings

if TYPE_CHECKING:
    from soldiom_ray.examples import Example

PROMPT_CHARACTERS = 80
QUESTION_CHARACTERS, QUESTION_LINES = 300, 6
"""Of a question that is shown again beside the answer of the deployed model."""


def metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Table rows: base, tuned, difference and interval of each metric."""
    rows = []
    for name in in_order(metrics.get("tuned", {})):
        difference = metrics.get("difference", {}).get(name, {})
        rows.append(
            {
                "metric": title_of(name),
                "before": f"{metrics['base'][name]:.4f}" if name in metrics.get("base", {}) else "",
                "after": f"{metrics['tuned'][name]:.4f}",
                "difference": f"{difference['mean']:+.4f}" if difference else "",
                "interval": f"[{difference['low']:+.4f}, {difference['high']:+.4f}]" if difference else "",
            }
        )
    return rows


def print_scores(metrics: Mapping[str, Any], title: str | None = None) -> None:
    """Print the metrics before and after, what could not be measured, how many answers changed, and the verdict."""
    if rows := metric_rows(metrics):
        print_table(rows, ["metric", "before", "after", "difference", "interval"], title)
    for name, reason in metrics.get("missing", {}).items():
        say(f"Not measurable: {title_of(name)}: {reason}.")
    answers = metrics.get("answers")
    if answers and answers["better"] is not None:
        say(
            f"Of {answers['count']} held-out prompts answered, {answers['better']} answers came closer to the author's"
            f" ({title_of(answers['metric'])}), {answers['worse']} went further off, {answers['same']} stayed the same."
        )
    if judge := metrics.get("judge"):
        say(
            f"The judge {judge['model']} prefers the tuned model's answer in {judge['wins']} of {judge['pairs']} pairs,"
            f" the base's in {judge['losses']}; {judge['ties']} are ties, no verdict on"
            f" {sum(judge['no_verdict'].values())}."
        )
    if red_team := metrics.get("red_team"):
        print_table(red_team_rows(red_team), ["attack", "asked", "better", "before", "after", "interval"])
    say(metrics.get("gate", {}).get("verdict", ""))


def red_team_rows(red_team: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the rates of attacks before and after tuning, with the interval after."""
    rows = []
    for suite in red_team["suites"].values():
        base, tuned = suite["rates"].get("base"), suite["rates"]["tuned"]
        row = {"attack": suite["title"], "asked": suite["probes"], "after": f"{tuned['rate']:.3f}"}
        row |= {"better": "lower" if suite["lower_is_better"] else "higher", "before": base and f"{base['rate']:.3f}"}
        rows.append(row | {"interval": f"[{tuned['low']:.3f}, {tuned['high']:.3f}]"})
    return rows


def print_sides(details: Mapping[str, Any]) -> None:
    """Print what each side of a split holds, and the warnings."""
    sides: dict[str, dict[str, int]] = details.get("sides", {})
    if sides:
        say()
        columns = ["side", *next(iter(sides.values()))]
        rows = [{"side": name} | {key: f"{value:,}" for key, value in side.items()} for name, side in sides.items()]
        print_table(rows, columns)
    for warning in details.get("warnings", []):
        say(f"Warning: {warning}")


def scored_examples(settings: Settings, job: Mapping[str, Any]) -> "list[Example]":
    """Examples in the scores that a job made; they are in no row of the database."""
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.examples import read_examples
    from soldiom_ray.storage import open_storage

    return read_examples(Artifacts(open_storage(settings)), job["result"].get("scores"))


def print_examples(examples: "Sequence[Example]") -> None:
    """Print held-out prompts with the author's, the base model's and the tuned model's answer, long ones shortened."""
    from soldiom_ray.examples import labeled_texts

    if not examples:
        return
    say("\nAnswers on held-out data, before and after (greedy; long texts end with …)")
    for number, example in enumerate(examples, 1):
        say(f"\n{number}. {' '.join(example.group.split())}")
        for label, text in labeled_texts(example):
            first, *rest = text.splitlines()
            say("\n".join([f"   {label:<8} {first}", *(f"            {line}" for line in rest)]))


def try_model(settings: Settings, job: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the deployed model once, through the API: a held-out question, or to continue the start of a held-out
    text."""
    is_picture = _task(job) == IMAGE_CLASSIFICATION
    prompt = "a held-out picture" if is_picture else _prompt(settings, job["result"].get("dataset"))
    body: dict[str, Any] = {"image": _picture(settings, job["result"]["dataset"])} if is_picture else {"input": prompt}
    if _task(job) in CHAT_TASKS:
        body["parameters"] = {"max_tokens": 48, "temperature": 0.0}
    answer: dict[str, Any] = call(settings, "POST", f"/api/inference/{job['result']['model_id']}", body)
    return {"input": prompt} | answer


def _picture(settings: Settings, dataset: str) -> str:
    """A held-out picture in base64, or one that it learnt from where none was held out."""
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.storage import open_storage

    artifacts = Artifacts(open_storage(settings))
    manifest = artifacts.get(dataset)
    sides = (artifacts.rows(manifest, f"{side}/", ["image"]) for side in ("test", "validation", "train"))
    return base64.b64encode(next(row["image"] for rows in sides for row in rows if row["image"])).decode()


def _prompt(settings: Settings, dataset: str | None) -> str:
    """The first held-out question; or the first definition in held-out code, or the first words of held-out prose; of
    what it learnt from where nothing was held out."""
    from itertools import islice

    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.storage import open_storage

    if dataset is None:
        return "import "
    artifacts = Artifacts(open_storage(settings))
    manifest = artifacts.get(dataset)
    sides = (artifacts.rows(manifest, f"{side}/", ["text", "messages"]) for side in ("test", "validation", "train"))
    rows = next((rows for side in sides if (rows := list(islice(side, 20)))), [])
    turns = [turn for row in rows for turn in json.loads(row["messages"] or "[]") if turn["role"] == "user"]
    if turns:
        return str(turns[0]["content"])
    texts = [str(row["text"]) for row in rows]
    lines = (line for text in texts for line in text.splitlines())
    code = next((line for line in lines if line.startswith(("class ", "def ")) and line.endswith(":")), None)
    prose = next((text.strip()[:PROMPT_CHARACTERS] for text in texts), "import ")
    return code or prose.rpartition(" ")[0] or prose


def print_summary(
    settings: Settings, job: Mapping[str, Any], answer: Mapping[str, Any] | None, before: Mapping[str, float]
) -> None:
    """Print the summary. `before`: seconds of steps before the job, by name."""
    from soldiom_ray.examples import shorten

    metrics, model = job["metrics"], job["result"].get("model_id")
    for stage in job["stages"]:
        if stage["stage"] == "prepare":
            print_sides(stage["details"] or {})
    if metrics:
        confidence = metrics.get("gate", {}).get("confidence", 0.95)
        print_scores(metrics, f"Held-out data, base against tuned ({100 * confidence:g} % interval)")
        print_examples(scored_examples(settings, job))
    say()
    seconds = [{"stage": name, "seconds": f"{value:.1f}"} for name, value in before.items()]
    for stage in job["stages"]:
        seconds.append(
            {
                "stage": stage["stage"],
                "seconds": f"{stage['seconds'] or 0:.1f}",
                "note": "reused" if stage["reused"] else "",
            }
        )
    print_table(seconds, ["stage", "seconds", "note"])
    if answer:
        question = shorten(answer["input"], QUESTION_CHARACTERS, QUESTION_LINES)
        say(f"\nPOST /api/inference/{model}\n{_indent(question)}\nanswered\n{_indent(output_text(answer['output']))}")
    say()
    addresses = {
        "in the browser": f"{settings.api_url}  (its key: {settings.local_key_path})",
        "API pages": f"{settings.api_url}/docs",
        "Ray dashboard": settings.dashboard_url,
        "MLflow": settings.mlflow_url,
    }
    print_table([{"where": name, "url": url} for name, url in addresses.items()], ["where", "url"])
    if model:
        say(_next_steps(settings, job, str((answer or {}).get("input", ""))))


def _next_steps(settings: Settings, job: Mapping[str, Any], asked: str) -> str:
    """What a reader can do now; `asked` is what the model was asked, whose first line a model of texts goes on from."""
    key, model = settings.local_key_path, job["result"]["model_id"]
    is_chat = any(stage["details"].get("prompt_format") == "chat" for stage in job["stages"])
    name = _model_name(job)
    copy = "sed 's|PATH|{0}|' recipes/own-{1}.yaml > mine.yaml && soldiom run mine.yaml".format
    is_code = (job["config"].get("prepare") or {}).get("pairs") == "docstrings"
    beginning = next(iter(asked.strip().splitlines()), "")[:PROMPT_CHARACTERS]
    generates = _task(job) in CHAT_TASKS
    fallback = "Hello" if is_chat else "import torch" if generates else "A text"
    question = "def area(r): return 3.14159 * r ** 2" if is_code else beginning or fallback
    body = json.dumps({"input": question} | ({"parameters": {"max_tokens": 40}} if generates else {}))
    hints = {
        "ask it": f"soldiom chat {name}" if is_chat else f"soldiom infer {name} {quote(question)}",
        "every metric": f"soldiom report {name}" if job["metrics"] else "",
        "your own code": "" if _is_own_data(job) else copy("/path/to/your/repository", "code"),
        "your own files": "" if _is_own_data(job) else copy("/path/to/your/files", "folder"),
        "with curl": f"""curl -s {settings.api_url}/api/inference/{model} \\
                          -H "Authorization: Bearer $(cat {key})" \\
                          -H 'Content-Type: application/json' -d {quote(body)}""",
    }
    shown = [(what, command) for what, command in hints.items() if command]
    lines = [f"  {number}. {what + ':':<18} {command}" for number, (what, command) in enumerate(shown, 1)]
    heading = "\nTry next (in this folder, after `source .venv/bin/activate`):"
    return "\n".join([heading, *lines, f"Ray's dashboard asks for a token: cat {settings.ray_token_path}"])


def _task(job: Mapping[str, Any]) -> str | None:
    """What the job's model was trained for; None where the job did not train it."""
    declared = job["config"].get("train")
    return declared.get("task", CAUSAL_LM) if declared else None


def _is_own_data(job: Mapping[str, Any]) -> bool:
    """Whether the recipe collects something of its reader's: anything but the code of installed packages."""
    return any(not source.get("packages") for source in job["config"].get("collect") or ())


def _model_name(job: Mapping[str, Any]) -> str:
    """What the commands call the model that a job registered; its id where the job registered none."""
    declared = job["config"].get("register")
    if not declared:
        return str(job["result"]["model_id"])
    return f"{declared['family']}/{declared.get('name') or job['config']['name']}"


def _indent(text: object) -> str:
    return "\n".join(f"    {line}" for line in str(text).rstrip().splitlines())
