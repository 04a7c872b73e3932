"""The scores as a Markdown page for people. Everything in it comes from `scores.json`, so the page can be written
again."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from soldiom_ray.domains.metrics import METRICS, MetricName, title_of
from soldiom_ray.evaluate.pictures import ANSWERS, CALIBRATION, CONFUSION, SLICES, SYSTEMS
from soldiom_ray.examples import Example, example_blocks, examples_markdown
from soldiom_ray.metrics.compare import HEADLINES
from soldiom_ray.metrics.measurement import PREVIOUS, PRIOR, TUNED, UNCALIBRATED, UNIFORM
from soldiom_ray.records import Manifest

CURVES = "curves.png"
"""The picture that a training leaves in its run."""

FEW_GROUPS = 10
"""Below this an interval over groups is rough: its true coverage is below its name."""


def write_report(content: Mapping[str, Any], run: Manifest, dataset: Manifest, pictures: Collection[str] = ()) -> str:
    """The page: verdict, numbers, comparisons, answers, labels, slices, groups, and how all of it was measured.
    Pictures are linked as `pictures/NAME`."""

    def picture(name: str, title: str) -> str:
        return f"![{title}](pictures/{name})" if name in pictures else ""

    parts = [
        f"# Scores of {run.id}\n\n> {' '.join(content['gate']['verdict'].split())}",
        _trivial_ones(content),
        _models(content, run, dataset),
        "## Metrics",
        _numbers(content),
        picture(SYSTEMS, "Every system's metrics with their intervals"),
        _forgetting(content),
        _answers(content),
        picture(ANSWERS, "Each answer of base and tuned model"),
        _verdicts(content),
        _decisions(content["examples"])
        if content.get("labels")
        else examples_markdown([Example.model_validate(each) for each in content["examples"]]),
        _red_team(content),
        "## Labels" if content.get("labels") else "",
        picture(CONFUSION, "Confusion matrix: rows are the true labels"),
        picture(CALIBRATION, "Share that is right over confidence"),
        _calibration(content),
        _slices(content),
        picture(SLICES, "Differences by slice"),
        _groups(content),
        _comparisons(content),
        f"## Training\n\n{picture(CURVES, 'Curves of the training')}" if CURVES in pictures else "",
        "## How it was measured",
        _method(content, dataset),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _trivial_ones(content: Mapping[str, Any]) -> str:
    """Which trivial baselines are better than the tuned model by what decides in their part: a gate against the base
    does not say so."""
    lines = []
    for part, name in HEADLINES.items():
        if name not in content["metrics"] or content["units"][name]["part"] != part:
            continue
        tuned, sign = content["tuned"][name], -1 if METRICS[name].lower_is_better else 1
        trivial = {
            system: values[name]
            for system, values in content["systems"].items()
            if name in values and system not in (PREVIOUS, UNCALIBRATED)
        }
        better = {system: value for system, value in trivial.items() if sign * value >= sign * tuned}
        if better:
            best = max(better, key=lambda system: sign * better[system])
            lines.append(
                f"**No better than a trivial baseline:** {best} has {title_of(name)} {better[best]:.4f}, the tuned"
                f" model {tuned:.4f}."
            )
    return "\n\n".join(lines)


def _decisions(examples: Sequence[Mapping[str, Any]]) -> str:
    """Some samples of a classification with their labels."""
    if not examples:
        return ""
    lines = [
        f"| {_cell(each['prompt'][:SHOWN_CHARACTERS])} | {_cell(each['reference'])} | {_cell(each['base'])}"
        f" | {_cell(each['tuned'])} |"
        for each in examples
    ]
    head = "## Examples\n\nHeld-out samples, not a measurement.\n\n| sample | label | base | tuned |\n|---|---|---|---|"
    return "\n".join([head, *lines])


SHOWN_CHARACTERS = 300


def _models(content: Mapping[str, Any], run: Manifest, dataset: Manifest) -> str:
    rows = {
        "tuned": f"`{run.id}`, method {run.details.get('method', 'full')}, task {run.details.get('task', 'causal_lm')}",
        "base": f"`{_cell(content['base_model'])}`",
        "version before": f"`{content['previous']}`" if content["previous"] else "none",
        "dataset": f"`{dataset.id}`",
        "held out": f"{len(content['documents'])} documents in {len(content['groups'])} groups",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _numbers(content: Mapping[str, Any]) -> str:
    percent = f"{100 * content['method']['confidence']:g} %"
    has_groups = bool(content["difference_over_groups"])
    over_groups = (f" {percent}, groups drawn |", "---|") if has_groups else ("", "")
    lines = [
        f"| metric | better | base | tuned | difference | {percent}, {content['method']['unit']}s drawn |"
        + over_groups[0],
        f"|---|---|---|---|---|---|{over_groups[1]}",
    ]
    for name in content["metrics"]:
        if name == "general_loss":
            continue
        metric = METRICS[name]
        difference, over = content["difference"].get(name), content["difference_over_groups"].get(name)
        base = f"{content['base'][name]:.4f}" if name in content["base"] else ""
        lines.append(
            f"| {metric.title} ({metric.unit}) | {'lower' if metric.lower_is_better else 'higher'} | {base}"
            f" | {content['tuned'][name]:.4f} | {_mean(difference)} | {_interval(difference)} |"
            + (f" {_interval(over)} |" if has_groups else "")
        )
    lines += [f"\nNot measurable: {title_of(name)}: {reason}." for name, reason in content["missing"].items()]
    return "\n".join(lines)


def _mean(difference: Mapping[str, float] | None) -> str:
    return f"{difference['mean']:+.4f}" if difference else ""


def _interval(difference: Mapping[str, float] | None) -> str:
    return f"[{difference['low']:+.4f},\u00a0{difference['high']:+.4f}]" if difference else ""


def _method(content: Mapping[str, Any], dataset: Manifest) -> str:
    method, groups, documents = content["method"], len(content["groups"]), len(content["documents"])
    text = (
        f"All models were scored on the same {method['tokens']} tokens ({method['blocks']} blocks of at most"
        f" {method['block_tokens']} tokens from {documents} documents in {groups} held-out group(s)) of"
        f" the test split of `{dataset.id}`, spread evenly over groups. Intervals are expanded percentile intervals of"
        f" a paired bootstrap with {method['resamples']} resamples (seed {method['seed']}) that draws"
        f" {method['unit']}s; the gate reads those."
    )
    if groups == 1:
        text += " All test documents belong to one group: how the difference varies between groups is not known."
    elif groups < FEW_GROUPS:
        text += (
            f" With only {groups} groups the document interval describes more documents of these groups, not of new"
            " ones; the group interval aims at new groups but is rough with so few. Look at each group below."
        )
    torn = {str(group["group"]) for group in content["groups"]} & _trained_on(dataset)
    if torn:
        text += (
            f" {len(torn)} of the groups also have documents in the training split, so the numbers say less about new"
            " sources than whole held-out groups would."
        )
    if content["base_model"] == PRIOR:
        text += (
            " A sample counts as one token. There is no base model that knows these labels; the baseline says of every"
            " sample how often each label occurs in the training split, and decides for the most frequent."
        )
    if content["base_model"] == UNIFORM:
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


def _comparisons(content: Mapping[str, Any]) -> str:
    """The tuned model against each other system."""
    rows = []
    for system, differences in content["comparisons"].items():
        for name, each in differences.items():
            needed = content["units"][name]
            more = f"about {each['needed']:,} {needed['unit']}s" if each["needed"] else ""
            rows.append(
                f"| {system} | {title_of(name)} | {_mean(each)} | {_interval(each)} | {each['p']:.3g}"
                f" | {each['corrected_p']:.3g} | {each['test']} | {more} |"
            )
    head = (
        "## Tuned against each other system\n\np is of no difference, corrected for all metrics by Holm's method beside"
        " it. Where a difference is not shown, the last column says how many held-out units would show one of this size"
        " with a chance of 80 %.\n\n"
        "| system | metric | difference | interval | p | p, corrected | test | would need |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *rows]) if rows else ""


def _forgetting(content: Mapping[str, Any]) -> str:
    if "general_loss" not in content["tuned"] or "general_loss" not in content["difference"]:
        return ""
    difference = content["difference"]["general_loss"]
    verdict = "is not shown to have changed"
    if difference["low"] > 0:
        verdict = "is worse: tuning has made the model forget some of it"
    elif difference["high"] < 0:
        verdict = "is better"
    return (
        f"## What tuning forgot\n\nOn {content['units']['general_loss']['samples']} short passages of general text the"
        f" loss {verdict}: {content['base']['general_loss']:.4f} -> {content['tuned']['general_loss']:.4f} nats per"
        f" token, difference {_mean(difference)} {_interval(difference)}."
    )


def _groups(content: Mapping[str, Any]) -> str:
    names: tuple[MetricName, ...] = ("accuracy", "loss")
    metric = next((name for name in names if name in content["metrics"]), None)
    if metric is None:
        return ""
    lower = METRICS[metric].lower_is_better
    differences = [group["difference"].get(metric) for group in content["groups"]]
    better = sum(1 for each in differences if each and (each < 0) == lower)
    lines = [
        f"## Groups\n\nThe tuned model is better on {better} of {len(differences)} groups ({title_of(metric)}).\n",
    ]
    if len(content["groups"]) == len(content["documents"]):
        return lines[0]  # each a single sample: their numbers say nothing one by one
    lines += [
        "| group | documents | tokens | base | tuned | difference |",
        "|---|---|---|---|---|---|",
    ]
    ordered = sorted(content["groups"], key=lambda group: -int(group["tokens"]))
    for group in ordered[:SHOWN_GROUPS]:
        cells = [group["base"].get(metric), group["tuned"].get(metric), group["difference"].get(metric)]
        numbers = " | ".join("" if each is None else f"{each:.4f}" for each in cells)
        lines.append(f"| {_cell(group['group'])} | {group['documents']} | {group['tokens']} | {numbers} |")
    if len(ordered) > SHOWN_GROUPS:
        lines.append(f"\n{len(ordered) - SHOWN_GROUPS} more groups are in `scores.json`.")
    return "\n".join(lines)


SHOWN_GROUPS = 40


def _calibration(content: Mapping[str, Any]) -> str:
    """What was fitted on the validation side, and what it does on the held-out one."""
    fitted = content.get("calibration")
    if not fitted:
        return ""
    validation, intervals = fitted["validation"], content["system_intervals"]
    text = (
        f"Probabilities are calibrated: logits are divided by {fitted['temperature']:.3f}, fitted on"
        f" {validation['samples']} samples of the validation side."
    )
    if "calibration_error" in intervals:
        after, before = (intervals["calibration_error"][system] for system in (TUNED, UNCALIBRATED))
        text += (
            f" The expected calibration error on held-out data is {after['mean']:.4f} {_range(after)};"
            f" it was {before['mean']:.4f} {_range(before)} before."
        )
    if fitted["max_error"] is None:
        return text
    text += (
        f"\n\nIt abstains where the likeliest label has a probability of at most {fitted['threshold']:.4f}: above that"
        f" at most {fitted['max_error']:g} of its answers on the validation side were wrong."
    )
    if validation["answered_error"] is None:
        return text + " No threshold reaches that, so it abstains always."
    answered, wrong = (intervals.get(name, {}).get(TUNED) for name in ("coverage", "answered_error"))
    if answered:
        text += f" On held-out data it answers {answered['mean']:.4f} {_range(answered)} of the samples"
        text += f", {wrong['mean']:.4f} {_range(wrong)} of these answers are wrong." if wrong else "."
    return text


def _range(interval: Mapping[str, float]) -> str:
    return f"[{interval['low']:.4f}, {interval['high']:.4f}]"


def _slices(content: Mapping[str, Any]) -> str:
    lines = [
        f"| {each['fact']} | {_cell(each['value'])} | {each['samples']} | {title_of(each['metric'])}"
        f" | {each['base']:.4f} | {each['tuned']:.4f} | {_mean(each['difference'])} | {_interval(each['difference'])} |"
        for each in content["slices"]
    ]
    head = (
        "## Slices\n\n| by | value | samples | metric | base | tuned | difference | interval |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *lines]) if lines else ""


def _answers(content: Mapping[str, Any]) -> str:
    judged = content["answers"]
    if not judged:
        return ""
    title = title_of(judged["metric"])
    text = f"## Answers\n\n{judged['count']} held-out prompts were answered, greedily."
    if judged["better"] is None:
        return text
    text += (
        f" By {title} against what the author wrote, {judged['better']} answers came closer by tuning,"
        f" {judged['worse']} went further off, {judged['same']} stayed about the same."
    )
    for name in ("improved", "worsened"):
        chosen = [Example.model_validate({k: v for k, v in each.items() if k != "scores"}) for each in judged[name]]
        if chosen:
            text += f"\n\n### What {name} most\n\n{example_blocks(chosen, '####')}"
    return text


def _verdicts(content: Mapping[str, Any]) -> str:
    """What a judge says of the answers, and how far it can be trusted."""
    judge = content.get("judge")
    if not judge:
        return ""
    text = (
        f"## What a judge says\n\n`{_cell(judge['model'])}` at `{_cell(judge['url'])}` compared {judge['pairs']} pairs"
        f" of answers, each in both orders. It prefers the tuned model's answer {judge['wins']} times, the base's"
        f" {judge['losses']} times; {judge['ties']} are ties, of them {judge['flipped']} because its verdict changed"
        " with the order."
    )
    if judge["no_verdict"]:
        text += f" No verdict on {_reasons(judge['no_verdict'])}."
    if (rate := content["intervals"].get("judge_win_rate")) is not None:
        text += f" Win rate, a tie as a half: {rate['mean']:.3f} {_range(rate)}."
    text += "\n\n" + _agreement(judge["agreement"])
    return text + " A judge is never the only ground of a promotion."


def _agreement(agreement: Mapping[str, Any] | None) -> str:
    if agreement is None:
        return "Nobody has rated pairs of answers that it could be compared with, so how far people agree is not known."
    text = f"Of {agreement['rated']} pairs that people have rated it decides {agreement['decided']}"
    if agreement["decided"]:
        text += f", {agreement['agreed']} as they did ({agreement['share']:.3f} {_range(agreement)})"
    text += f"; {agreement['ties']} are ties"
    return text + (f", no verdict on {_reasons(agreement['no_verdict'])}." if agreement["no_verdict"] else ".")


def _red_team(content: Mapping[str, Any]) -> str:
    """How often attacks succeeded, before and after."""
    red_team = content.get("red_team")
    if not red_team:
        return ""
    systems = [*dict.fromkeys(name for suite in red_team["suites"].values() for name in suite["rates"])]
    systems.sort(key=lambda name: (name == TUNED, name))
    lines = [
        f"| attack | asked | better | {' | '.join(systems)} | p, base and tuned |",
        f"|---|---|---|{'---|' * len(systems)}---|",
    ]
    for suite in red_team["suites"].values():
        rates = [suite["rates"].get(system) for system in systems]
        cells = " | ".join(f"{each['rate']:.3f} {_range(each)}" if each else "" for each in rates)
        p = "" if suite["p"] is None else f"{suite['p']:.3g}"
        better = "lower" if suite["lower_is_better"] else "higher"
        lines.append(f"| {suite['title']} | {suite['probes']} | {better} | {cells} | {p} |")
    if (remembered := red_team["remembered"]) is not None:
        lines.append(
            f"\nThe tuned model continues training texts more often than held-out ones by {_mean_of(remembered)}."
        )
    lines.append(f"\nRedaction finds {red_team['known']} different personal data or secrets in the training split.")
    lines += [f"\nNot asked: {reason}." for reason in red_team["missing"].values()]
    rules = "\n".join(f"- {suite['title']}: {suite['rule']}." for suite in red_team["suites"].values())
    head = (
        "## Red team\n\nShares of the attacks, each with its interval of 95 % (Wilson), before and after tuning. Few"
        " attacks leave wide intervals: a rate of 0 does not say that there is no way."
    )
    return f"{head}\n\n" + "\n".join(lines) + f"\n\nRules, with English phrases:\n\n{rules}"


def _mean_of(remembered: Mapping[str, float]) -> str:
    return f"{remembered['difference']:+.3f} [{remembered['low']:+.3f}, {remembered['high']:+.3f}]"


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} ({reason})" for reason, count in counts.items())


def _cell(value: object) -> str:
    """A value on one line, none of its signs read as Markdown."""
    return re.sub(r"([\\|`*\[\]<>!])", r"\\\1", " ".join(str(value).split()))
