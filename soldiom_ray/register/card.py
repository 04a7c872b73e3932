"""The model card: one Markdown page that says what a model is for, what it was made from and how good it is.

The headings follow Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray import __version__
from soldiom_ray.domains.compression import savings
from soldiom_ray.domains.metrics import in_order, title_of
from soldiom_ray.domains.schema import Register
from soldiom_ray.domains.tasks import CAUSAL_LM, CLASSIFICATIONS, IMAGE_CLASSIFICATION, SEQ2SEQ
from soldiom_ray.examples import Example, examples_markdown
from soldiom_ray.licenses import Compliance, obligations
from soldiom_ray.models.chat import prompt_format_of_run
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.records import Manifest
from soldiom_ray.register.bases import RegisteredBase
from soldiom_ray.register.federation import federation_section
from soldiom_ray.register.sources import DataSource, summarized

SHOWN_LABELS = 30
SHOWN_ROWS, SHOWN_GROUPS, SHOWN_NAME = 100, 3, 60
"""Rows of the table of the data, groups that a row names, and characters of a group's name; the dataset's own card has
all."""

HYPERPARAMETERS = (
    "method", "rank", "alpha", "dropout", "target_modules", "virtual_tokens", "epochs", "max_tokens", "sequence_length",
    "batch_tokens", "learning_rate", "warmup_ratio", "weight_decay", "gradient_clip", "precision", "workers", "seed",
)  # fmt: skip
OF_A_LINEAR_HEAD = ("head", "sequence_length", "precision", "seed")
ONLY_OF = {"rank": "lora", "alpha": "lora", "dropout": "lora", "target_modules": "lora", "virtual_tokens": "prompt"}


def write_card(
    name: str,
    run: Manifest,
    scores: Manifest | None,
    dataset: Manifest,
    declared: Register,
    base: RegisteredBase | None,
    sources: Sequence[DataSource],
    license_: str,
    unknown: Sequence[str],
    examples: Sequence[Example] = (),
    compliance: Compliance | None = None,
    reasons: Sequence[str] = (),
) -> str:
    """The card as Markdown, with the examples of the scores. `license_` is the expression that holds for the model
    (SPDX), `unknown` names the parts without a known licence."""
    sections = [
        _front_matter(name, declared, run, license_),
        f"# {declared.family}/{name}",
        _intended_use(run, declared, base),
        *_how_to_ask(run),
        _compression(run, base) or _training(run),
        _choice(reasons),
        federation_section(run),
        _data(dataset, sources),
        _evaluation(scores),
        _calibration(scores),
        examples_markdown(examples),
        _licenses(license_, unknown, base, sources),
        *_compliance(compliance),
        _limits(run, scores),
        _reproduce(run, scores, dataset),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(name: str, declared: Register, run: Manifest, license_: str) -> str:
    lines = ["---", f"model_name: {name}", f"license: {license_ or 'unknown'}"]
    if run.details.get("base_model") != run.id:
        lines.append(f"base_model: {_cell(run.details.get('base_model'))}")
    lines.append(f"tags: [soldiom, {declared.family}, {run.details.get('method', 'full')}]")
    return "\n".join([*lines, "---"])


USES = {
    "causal_lm": ("A causal language model", "it continues text like the text it was trained on"),
    "preference": ("A causal language model", "it answers as in the conversations that were preferred to others"),
    "seq2seq_lm": ("A sequence-to-sequence model", "it writes targets for sources like those it was trained on"),
    "text_classification": ("A text classifier", "it names the labels of texts like those it was trained on"),
    "image_classification": ("An image classifier", "it names the labels of pictures like those it was trained on"),
}


def _intended_use(run: Manifest, declared: Register, base: RegisteredBase | None) -> str:
    subject = f" for {declared.specialization}" if declared.specialization else ""
    task = run.details.get("task", "causal_lm")
    noun, ability = USES[task]
    if task == "causal_lm" and prompt_format_of_run(run.details) == "chat":
        ability = "it answers like the conversations it was trained on"
    made = "compressed" if run.details.get("compression") else "tuned"
    origin = (
        f"It was {made} from {base.label} (`{_cell(run.details.get('base_model'))}`)."
        if base
        else ("It was trained from random weights; it has no base model.")
    )
    return (
        f"## Intended use\n\n{noun}{subject}: {ability}."
        f" {origin} Its output is a draft for a person to check, not a fact and not a decision."
    )


def _how_to_ask(run: Manifest) -> list[str]:
    task = run.details.get("task", CAUSAL_LM)
    if task in CLASSIFICATIONS:
        return [_how_to_ask_a_classifier(run)]
    if task == SEQ2SEQ:
        return [
            "## How to ask it\n\nA text sent as `input` is its source, as in training; the answer is the target. Of a"
            f" source it reads {int(run.details['sequence_length'])} tokens."
        ]
    if not TASK_MODELS[task].generates:
        return []
    if prompt_format_of_run(run.details) == "chat":
        return [
            "## How to ask it\n\nIt was trained on conversations written by its chat template. A text sent as `input`"
            " becomes the user's turn; `messages` are a whole conversation. `raw: true` (`soldiom infer --raw`) has it"
            " continue a text as it is."
        ]
    return ["## How to ask it\n\nIt was trained on plain text: it continues what it is given as `input`."]


def _how_to_ask_a_classifier(run: Manifest) -> str:
    labels = list(run.details.get("configuration", {}).get("id2label", {}).values())
    shown = ", ".join(f"`{_cell(label)}`" for label in labels[:SHOWN_LABELS])
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    answered = (
        f"is answered with its `label` and `scores`, each label's probability{': ' + shown + more if shown else ''}"
    )
    if run.details.get("task") == IMAGE_CLASSIFICATION:
        return (
            f'## How to ask it\n\nA PNG or JPEG file sent as `{{"image": "base64 of it"}}` {answered}. On the command'
            " line: `soldiom infer MODEL FILE`."
        )
    return (
        f'## How to ask it\n\nA text sent as `{{"input": "a text"}}` {answered}. Of a text longer than'
        f" {run.details.get('sequence_length')} tokens it reads the beginning and the last token. On the command line:"
        " `soldiom infer MODEL TEXT`."
    )


def _training(run: Manifest) -> str:
    details, declared = run.details, run.made_from.get("declared", {})
    method = str(details.get("method", "full"))
    lines = ["## Training\n", "| | |", "|---|---|"]
    for key in OF_A_LINEAR_HEAD if details.get("head") == "linear" else HYPERPARAMETERS:
        value = details.get(key, declared.get(key) if isinstance(declared, dict) else None)
        if value not in (None, (), []) and ONLY_OF.get(key, method) == method:
            lines.append(f"| {key} | {_cell(value)} |")
    for key in (
        "steps",
        "tokens",
        "best_step",
        "best_validation_loss",
        "trainable_parameters",
        "parameters",
        "seconds",
    ):
        if details.get(key) is not None:
            lines.append(f"| {key} | {_cell(details[key])} |")
    return "\n".join([*lines, *_template_gaps(details.get("template_gaps") or {})])


def _compression(run: Manifest, base: RegisteredBase | None) -> str:
    """What the weights were rounded to, and what that saves; "" for a model that was not compressed."""
    compression = run.details.get("compression")
    if not compression:
        return ""
    origin = base.label if base else run.details["base_model"]
    rows = [f"| {' | '.join(row)} |" for row in savings(compression)]
    if "threads" in compression:
        speed = (
            f"Speeds were measured in the job that compressed it, with {compression['threads']} thread(s), the two"
            " models in turns."
        )
    else:
        speed = "Served here, its weights are expanded: in memory and by speed it is as the uncompressed one."
    text = (
        f"## Compression\n\nThe weights of {origin} (`{run.details['base_model']}`) in {compression['to']}; nothing"
        f" was trained. How that one was trained stands on its card. Below, it is the base. {speed}\n"
    )
    return "\n".join([text, "| | uncompressed | compressed |", "|---|---|---|", *rows])


def _choice(reasons: Sequence[str]) -> str:
    """Why it has the settings that it has, where they were chosen by trials."""
    return "\n".join(["## How the settings were chosen\n", *(f"- {reason}" for reason in reasons)]) if reasons else ""


def _template_gaps(gaps: Mapping[str, Any]) -> list[str]:
    """What the chat template could not express of the conversations, and what became of them."""
    if not gaps:
        return []
    kinds = dict(gaps.get("gaps") or {}) | ({"turns that it refuses": gaps["refused"]} if gaps.get("refused") else {})
    what = ", ".join(f"{name} ({count:,})" for name, count in kinds.items())
    done = "left out" if gaps["choice"] == "leave_out" else "trained on with it folded into turns that it knows"
    return [
        f"\nOf {gaps['conversations']:,} conversations {gaps['inexpressible']:,} hold what the chat template cannot"
        f" express ({what}); they were {done}."
    ]


def _data(dataset: Manifest, sources: Sequence[DataSource]) -> str:
    trained = sum(source.trained for source in sources)
    held_out = sum(source.held_out for source in sources)
    lines = [
        f"## Data\n\nDataset `{dataset.id}`: {trained} documents to train and validate, {held_out} held out,"
        f" from {len(sources):,} group{'s' * (len(sources) != 1)} (repositories, packages, folders and the like).\n",
        "| source | kind | licence | from | trained on | held out |",
        "|---|---|---|---|---|---|",
    ]
    rows = summarized(sources)
    for row in rows[:SHOWN_ROWS]:
        names = ", ".join(_cell(group)[:SHOWN_NAME] for group in row.groups[:SHOWN_GROUPS])
        more = f" and {len(row.groups) - SHOWN_GROUPS:,} more" if len(row.groups) > SHOWN_GROUPS else ""
        lines.append(
            f"| {_cell(row.source)} | {_cell(row.kind)} | {_cell(row.license or 'unknown')} | {names}{more}"
            f" | {row.trained:,} | {row.held_out:,} |"
        )
    if len(rows) > SHOWN_ROWS:
        lines.append(f"| {len(rows) - SHOWN_ROWS} more rows, see the dataset's card | | | | | |")
    return "\n".join(lines)


def _evaluation(scores: Manifest | None) -> str:
    if scores is None:
        return "## Evaluation\n\nNot evaluated."
    details: dict[str, Any] = scores.details
    if not details["difference"]:
        return f"## Evaluation\n\n{details['gate']['verdict']}"
    confidence = details.get("gate", {}).get("confidence", 0.95)
    lines = [
        f"## Evaluation\n\n{details['gate']['verdict']}\n",
        f"On {details['documents']} documents ({details['tokens']} tokens or labels) of {details['groups']} held-out"
        f" group(s); {100 * confidence:g} % intervals from a paired bootstrap.\n",
        "| metric | base | tuned | difference | interval |",
        "|---|---|---|---|---|",
    ]
    for name in in_order(details["difference"]):
        interval = details["difference"][name]
        lines.append(
            f"| {title_of(name)} | {details['base'][name]:.4f} | {details['tuned'][name]:.4f} | {interval['mean']:+.4f}"
            f" | [{interval['low']:+.4f}, {interval['high']:+.4f}] |"
        )
    report = f"/api/evaluations/{scores.id}/report"
    lines.append(f"\nThe whole report: `soldiom report {scores.made_from.get('run')}`, or `GET {report}`.")
    lines += [f"\nNot measurable: {title_of(name)}: {reason}." for name, reason in details.get("missing", {}).items()]
    return "\n".join(lines)


def _calibration(scores: Manifest | None) -> str:
    """How far a classifier's probabilities can be believed, and when it abstains."""
    fitted = scores.details.get("calibration") if scores else None
    if scores is None or not fitted:
        return ""
    error, answered = (scores.details["tuned"].get(name) for name in ("calibration_error", "coverage"))
    text = f"Its probabilities are calibrated (temperature {fitted['temperature']:.3f}"
    text += f"; expected calibration error {error:.4f})." if error is not None else ")."
    if fitted["max_error"] is not None:
        text += (
            f" It abstains where the likeliest label has a probability of at most {fitted['threshold']:.4f}, so that at"
            f" most {fitted['max_error']:g} of its answers were wrong on the validation side"
        )
        text += f"; on held-out data it answers {100 * answered:.1f} %." if answered is not None else "."
    return text


def _licenses(license_: str, unknown: Sequence[str], base: RegisteredBase | None, sources: Sequence[DataSource]) -> str:
    parts = [f"## Licences\n\nThe terms of everything that went in hold together: `{license_ or 'unknown'}`."]
    by_license: dict[str, int] = {}
    for source in sources:
        if source.trained:
            for name in source.licenses:
                by_license[name] = by_license.get(name, 0) + 1
    if base:
        parts.append(f"- base model, {base.license or 'unknown'}: {obligations(base.license)}")
    for name, count in sorted(by_license.items(), key=lambda item: (-item[1], item[0])):
        parts.append(f"- {count} source(s), {name or 'unknown'}: {obligations(name)}")
    if unknown:
        shown = ", ".join(_cell(name) for name in unknown[:50])
        more = f" and {len(unknown) - 50} more" if len(unknown) > 50 else ""
        parts.append(f"- without a known licence: {shown}{more}. Find out before you pass the model on.")
    parts.append("\nThis is a sorting of published licences, not legal advice.")
    return "\n".join(parts)


def _compliance(compliance: Compliance | None) -> list[str]:
    """What blocks the model, and what those who pass it on or show its answers have to say and do."""
    if compliance is None:
        return []
    lines = [f"- Blocked: {_cell(violation.message)}." for violation in compliance.violations[:20]]
    lines += [f"- Notice, to be shown with the model and its answers: {notice}" for notice in compliance.notices]
    lines += [f"- {license_}: {duty}" for license_, duty in compliance.duties]
    return ["\n".join(["## Terms of use\n", *lines])] if lines else []


def _limits(run: Manifest, scores: Manifest | None) -> str:
    length = run.details.get("sequence_length")
    lines = [
        "## Limits\n",
        "- It can state what is false, repeat its training text and continue harmful text. Nothing prevents it.",
        "- The scores speak of text like the held-out text, and of predicting it, not of answering questions.",
    ]
    if length:
        lines.append(f"- It was trained on sequences of {length} tokens; longer contexts are untested.")
    if scores is not None and 0 < int(scores.details.get("groups", 0)) < 10:
        lines.append(f"- Only {scores.details['groups']} group(s) were held out: new sources may behave otherwise.")
    return "\n".join(lines)


def _reproduce(run: Manifest, scores: Manifest | None, dataset: Manifest) -> str:
    lines = ["## Reproduce\n", "| | |", "|---|---|"]
    for label, manifest in (("run", run), ("scores", scores), ("dataset", dataset)):
        if manifest is not None:
            lines.append(f"| {label} | `{manifest.id}` (code {manifest.code_version}) |")
    for parent in dataset.parents:
        lines.append(f"| dataset made from | `{parent}` |")
    if run.details.get("mlflow_run_id"):
        lines.append(f"| MLflow run | `{run.details['mlflow_run_id']}` |")
    lines.append(f"| registered with | soldiom {__version__} |")
    lines.append(f"| trained at | {run.created_at.isoformat(timespec='seconds')} |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    """A value as it may stand in a table cell: one line, no column mark."""
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")
