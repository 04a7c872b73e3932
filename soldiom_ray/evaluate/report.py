"""The scores as JSON for programs and as a Markdown page for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from soldiom_ray.domains.schema import Evaluate
from soldiom_ray.evaluate.compare import Comparison
from soldiom_ray.evaluate.measurement import PRIOR, UNIFORM, Measurement
from soldiom_ray.evaluate.metrics import LOWER_IS_BETTER, UNITS
from soldiom_ray.examples import examples_as_dicts, examples_markdown
from soldiom_ray.records import Manifest

FEW_GROUPS = 10
"""Below this an interval over groups is rough: its true coverage is below its name."""


def scores_json(
    measurement: Measurement, comparison: Comparison, gate: dict[str, Any], shown: Sequence[str], declared: Evaluate
) -> bytes:
    """Everything that was counted, down to each document."""
    content = {
        "metrics": list(shown),
        "base_model": measurement.base,
        "base": comparison.base,
        "tuned": comparison.tuned,
        "difference": {name: interval.as_dict() for name, interval in comparison.difference.items()},
        "difference_over_groups": {name: interval.as_dict() for name, interval in comparison.over_groups.items()},
        "gate": gate,
        "groups": comparison.groups,
        "documents": [asdict(document) for document in measurement.documents],
        "examples": examples_as_dicts(measurement.examples),
        "method": {
            "tokens": measurement.tokens,
            "blocks": measurement.blocks,
            "block_tokens": measurement.block_tokens,
            "unit": "document",
            "resamples": declared.resamples,
            "confidence": declared.gate.confidence,
            "seed": declared.seed,
        },
        "seconds": measurement.seconds,
    }
    return json.dumps(content, indent=1, ensure_ascii=False).encode()


def write_report(
    measurement: Measurement,
    comparison: Comparison,
    gate: dict[str, Any],
    shown: Sequence[str],
    declared: Evaluate,
    run: Manifest,
    dataset: Manifest,
) -> str:
    """The page: verdict, numbers, how they were taken, the groups, and what both models answer."""
    parts = [
        f"# Scores of {run.id}\n\n{gate['verdict']}",
        _numbers(comparison, shown, declared.gate.confidence),
        _method(measurement, comparison, declared, dataset),
        _groups(comparison, gate["metric"]),
        examples_markdown(measurement.examples),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _numbers(comparison: Comparison, shown: Sequence[str], confidence: float) -> str:
    percent = f"{100 * confidence:g} %"
    lines = [
        f"| metric | better | base | tuned | difference | {percent}, documents drawn | {percent}, groups drawn |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in shown:
        over = comparison.over_groups.get(name)
        side = "lower" if LOWER_IS_BETTER[name] else "higher"
        lines.append(
            f"| {name} ({UNITS[name]}) | {side} | {comparison.base[name]:.4f} | {comparison.tuned[name]:.4f}"
            f" | {comparison.difference[name].mean:+.4f} | {comparison.difference[name]}"
            f" | {over or 'only one group'} |"
        )
    return "\n".join(lines)


def _method(measurement: Measurement, comparison: Comparison, declared: Evaluate, dataset: Manifest) -> str:
    groups = len(comparison.groups)
    text = (
        f"Both models were scored on the same {measurement.tokens} tokens ({measurement.blocks} blocks of at most"
        f" {measurement.block_tokens} tokens from {comparison.documents} documents in {groups} held-out group(s)) of"
        f" the test split of `{dataset.id}`, spread evenly over groups. Intervals are percentile intervals of a paired"
        f" bootstrap with {declared.resamples} resamples (seed {declared.seed}); the gate reads the one that draws"
        " documents."
    )
    if groups == 1:
        text += " All test documents belong to one group: how the difference varies between groups is not known."
    elif groups < FEW_GROUPS:
        text += (
            f" With only {groups} groups the document interval describes more documents of these groups, not of new"
            " ones; the group interval aims at new groups but is rough with so few. Look at each group below."
        )
    torn = {str(group["group"]) for group in comparison.groups} & _trained_on(dataset)
    if torn:
        text += (
            f" {len(torn)} of the groups also have documents in the training split, so the numbers say less about new"
            " sources than whole held-out groups would."
        )
    if measurement.base == PRIOR:
        text += (
            " A sample counts as one token. There is no base model that knows these labels; the baseline says of every"
            " sample how often each label occurs in the training split, and decides for the most frequent."
        )
    if measurement.base == UNIFORM:
        text += (
            " The model was trained from random weights; its baseline is a guess that holds every token equally likely."
        )
    return text


def _trained_on(dataset: Manifest) -> set[str]:
    """Groups with documents in the training split, by the splits in the dataset's manifest ("train", "train+test")."""
    groups = dataset.details.get("groups")
    if not isinstance(groups, dict):
        return set()
    return {name for name, group in groups.items() if "train" in str(group.get("split", "")).split("+")}


def _groups(comparison: Comparison, metric: str) -> str:
    better = sum(1 for group in comparison.groups if (group["difference"][metric] < 0) == LOWER_IS_BETTER[metric])
    lines = [
        f"## Groups\n\nThe tuned model is better on {better} of {len(comparison.groups)} groups ({metric}).\n",
        "| group | documents | tokens | base | tuned | difference |",
        "|---|---|---|---|---|---|",
    ]
    for group in sorted(comparison.groups, key=lambda group: -int(group["tokens"])):
        name = str(group["group"]).replace("|", "\\|").replace("\n", " ")
        lines.append(
            f"| {name} | {group['documents']} | {group['tokens']} | {group['base'][metric]:.4f}"
            f" | {group['tuned'][metric]:.4f} | {group['difference'][metric]:+.4f} |"
        )
    return "\n".join(lines)
