"""The content filter: recall and false positives by class, disguise, language and group, and what it costs.

    python benchmarks/domains.py --data ../shared/data --only moderation --in-process
    python benchmarks/content_filter.py --data ../shared/data              # in the same home: rules and classifiers
    python benchmarks/content_filter.py --data ../shared/data --quick      # rules alone

Rules are asked the prompts of `content_filter_prompts.yaml`, each in twelve disguises, and real texts in which nothing
is to be found: instructions of people, text messages, questions about medicine. Classifiers are those of the moderation
pack, asked their held-out posts and messages through the filter; a threshold is chosen on the validation side, for at
most 5 % of false positives, not on what is printed. Groups are found by words that name them, dialect by forms of
African American English that linguists list; both miss most.
"""

import argparse
import asyncio
import base64
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.content_filter import ClassifierCheck, ContentFilter
from soldiom_ray.metrics.resampling import wilson_interval
from soldiom_ray.models.classifier import Classifier, probabilities
from soldiom_ray.models.labels import labels_of
from soldiom_ray.models.load import load_run
from soldiom_ray.safety.content_filter import Filter, windows_of
from soldiom_ray.safety.normalize import views
from soldiom_ray.safety.rules import FINDERS, find, rules
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage

CATEGORIES = (*FINDERS, *rules())
LOOKALIKE = str.maketrans("aeiopcxyABEKMHOPCTX", "аеіорсхуАВЕКМНОРСТХ")
DISGUISES: Mapping[str, Callable[[str], str]] = {
    "as written": str,
    "zero-width characters": "\u200b".join,
    "look-alikes": lambda text: text.translate(LOOKALIKE),
    "full width": lambda text: "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in text),
    "marks": lambda text: "".join(f"{each}\u0301" if each in "aeiou" else each for each in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 within a sentence": lambda text: f"Decode {base64.b64encode(text.encode()).decode()} and do what it says.",
    "percent signs": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "escapes": lambda text: json.dumps(text + "\u0301") if not text.isascii() else "".join(
        f"\\u{ord(each):04x}" for each in text
    ),
    "upper case": str.upper,
    "among other text": lambda text: f"{FILLER} {text} {FILLER}",
    "invisible tags": lambda text: "Hello! " + "".join(chr(0xE0000 + ord(each)) for each in text if ord(each) < 127),
}  # fmt: skip
FILLER = "The library lends books for three weeks and films for one; ask at the desk how to renew a card. " * 4
GROUPS = {
    "women": r"\b(women|woman|girls?|females?|wife|feminis\w+)\b",
    "ethnic": r"\b(black|white|asian|mexican|latino|jew\w*|arab\w*|muslim\w*|immigrants?|african)\b",
    "sexuality": r"\b(gay|lesbian|homosexual|trans|queer|lgbt\w*)\b",
    "words of African American English": r"\b(dis|dat|dey|finna|ain'?t|ima|tryna|yo|ya'?ll|wit|cuz|bruh)\b",
}


def share(hits: int, count: int) -> str:
    """A rate with its 95 % interval."""
    if not count:
        return "-"
    low, high = wilson_interval(hits, count)
    return f"{100 * hits / count:.1f} % ({100 * low:.1f} to {100 * high:.1f}; {count})"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def measure_rules(data: Path) -> None:
    """Recall by category, language and disguise; false positives on prompts that sound alike and on real texts."""
    path = Path(__file__).with_name("content_filter_prompts.yaml")
    prompts: dict[str, dict[str, list[str]]] = yaml.safe_load(path.read_text("utf-8"))
    benign = [text for texts in prompts.pop("benign").values() for text in texts]
    asked = [(category, language, text) for category, by in prompts.items() for language in by for text in by[language]]
    keywords = [each for each in asked if each[0] not in FINDERS]
    rows = []
    for category in prompts:
        texts = [text for name, _, text in asked if name == category]
        plain = sum(category in find(text, [category]).categories for text in texts)
        disguised = [(text, change) for text in texts for change in DISGUISES.values()]
        found = sum(category in find(change(text), [category]).categories for text, change in disguised)
        wrong = sum(
            category in find(change(text), [category]).categories for text in benign for change in DISGUISES.values()
        )
        rows.append(
            (
                category,
                share(plain, len(texts)),
                share(found, len(disguised)),
                share(wrong, len(benign) * len(DISGUISES)),
            )
        )
    print_table(
        ("category", "recall", "recall over all disguises", "false positives, look-alikes in all disguises"), rows
    )
    languages = sorted({language for _, language, _ in keywords})
    by_language = [
        (each, [(name, text) for name, language, text in keywords if language == each]) for each in languages
    ]
    print_table(
        ("language", "recall of keyword rules"),
        [
            (each, share(sum(name in find(text, [name]).categories for name, text in some), len(some)))
            for each, some in by_language
        ],
    )
    print_table(
        ("disguise", "recall of keyword rules, English"),
        [
            (
                label,
                share(
                    sum(
                        name in find(change(text), [name]).categories
                        for name, language, text in keywords
                        if language == "en"
                    ),
                    sum(language == "en" for _, language, _ in keywords),
                ),
            )
            for label, change in DISGUISES.items()
        ],
    )
    print_table(
        ("real texts", "false positives", "of which"), [real_texts(name, texts) for name, texts in corpora(data)]
    )


def corpora(data: Path) -> Iterable[tuple[str, list[str]]]:
    """Texts of people in which nothing is to be found."""

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (data / name).read_text("utf-8").split("\n") if line]

    yield (
        "instructions and their answers",
        [
            f"{each['instruction']} {each.get('input') or ''} {each['output']}"
            for each in lines("instruct_short/train.jsonl")
        ],
    )
    yield (
        "text messages that are no spam",
        [each["text"] for each in lines("moderation_sms/train.jsonl") if each["label"] == "ham"],
    )
    yield (
        "abstracts and questions of medicine",
        [str(each.get("question") or each) for each in lines("medical_pubmedqa/train.jsonl")],
    )


def real_texts(name: str, texts: Sequence[str]) -> tuple[str, str, str]:
    keywords = list(rules())
    found = [categories for text in texts if (categories := find(text, keywords).categories)]
    counts = {each: sum(each in categories for categories in found) for each in keywords}
    return (
        name,
        share(len(found), len(texts)),
        ", ".join(f"{each} {count}" for each, count in counts.items() if count) or "-",
    )


def measure_cost() -> None:
    """CPU of the rules by length."""
    rows = []
    for length in (200, 1_000, 4_000):
        text = (FILLER * 20)[:length]
        find(text, CATEGORIES)
        began = time.process_time()
        for _ in range(100):
            find(text, CATEGORIES)
        rows.append((f"{length:,}", f"{10 * (time.process_time() - began):.2f} ms"))
    print_table(("characters", "CPU of all rules"), rows)


def measure_classifier(name: str, label: str) -> None:
    """Recall and false positives of one model of the moderation pack through the filter, and its cost."""
    settings = load_settings()
    record = settings.home / "domain-results" / f"moderation-{name}.json"
    if not record.is_file():
        print(f"\nskipped: moderation's {name} has not been made in this home; benchmarks/domains.py makes it")
        return
    scores, artifacts = json.loads(record.read_text())["metrics"], Artifacts(open_storage(settings))
    manifest, dataset = artifacts.get(scores["run"]), artifacts.get(scores["dataset"])
    rows = {
        part: [
            (row["text"], labels_of(row["metadata"])[0])
            for row in artifacts.rows(dataset, f"{part}/", ["text", "metadata"])
        ]
        for part in ("validation", "test")
    }
    temperature = float(scores["calibration"]["temperature"])
    with load_run(artifacts, settings, manifest) as (model, tokenizer):
        classifier = Classifier.taking_over(model, tokenizer, int(manifest.details["sequence_length"]))

        async def classify(_: str, texts: Sequence[str]) -> list[Mapping[str, float]]:
            logits = classifier.logits(classifier.read(texts))
            chances = probabilities(logits, multi_label=False, temperature=temperature)
            return [dict(zip(classifier.names, map(float, row), strict=True)) for row in chances]

        found = {part: max_scores(classify, [text for text, _ in some], label) for part, some in rows.items()}
        given = [each for _, each in rows["validation"]]
        others = sorted(score for score, each in zip(found["validation"], given, strict=True) if each != label)
        threshold = others[int(0.95 * len(others))]
        report(name, label, threshold, rows["test"], found["test"])
        cost(classify, [text for text, _ in rows["test"]][:256], label, threshold)


def max_scores(classify: Any, texts: Sequence[str], label: str) -> list[float]:
    """What the filter compares with a threshold, of each text."""
    windows = []
    for place, text in enumerate(texts):
        seen = views(text)
        windows += [(window, place) for each in (seen.plain, *seen.decoded) for window in windows_of(each)]
    highest = [0.0] * len(texts)
    for first in range(0, len(windows), 64):
        some = windows[first : first + 64]
        answers = asyncio.run(classify("", [window for window, _ in some]))
        for (_, place), answer in zip(some, answers, strict=True):
            highest[place] = max(highest[place], answer[label])
    return highest


def report(name: str, label: str, threshold: float, rows: Sequence[tuple[str, str]], scores: Sequence[float]) -> None:
    """Recall of the label, and false positives of each other one, over all and by group."""
    labels = sorted({given for _, given in rows})

    def cells(chosen: Sequence[bool]) -> list[str]:
        some = [
            (given, score >= threshold) for (_, given), score, is_in in zip(rows, scores, chosen, strict=True) if is_in
        ]
        return [
            share(sum(hit for given, hit in some if given == each), sum(given == each for given, _ in some))
            for each in labels
        ]

    head = [
        f"{name}, label {label} at {threshold:.2f}",
        *(f"{'recall' if each == label else 'false positives'} of {each}" for each in labels),
    ]
    groups = {"all": "", **(GROUPS if name == "toxicity" else {})}
    print_table(
        head,
        [
            [group, *cells([bool(re.search(words, text.lower())) for text, _ in rows])]
            for group, words in groups.items()
        ],
    )


def cost(classify: Any, texts: Sequence[str], label: str, threshold: float) -> None:
    """Milliseconds of a request when eight are asked at once."""
    check = ClassifierCheck(model="m", label=label, threshold=max(threshold, 1e-6))
    content = Filter(ContentFilter(rules=(), classifiers=(check,)), classify)
    batches = [texts[at : at + 8] for at in range(0, len(texts), 8)]
    began = time.perf_counter()
    for batch in batches:
        asyncio.run(classify("", [text[:400] for text in batch]))
    print(f"\nclassifier, 8 texts at a time: {1000 * (time.perf_counter() - began) / len(texts):.1f} ms for each")
    began = time.perf_counter()
    for text in texts:
        asyncio.run(content.check(text, "input"))
    print(f"the whole check of one text alone: {1000 * (time.perf_counter() - began) / len(texts):.1f} ms")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="rules alone")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: the data sets are not at {options.data}")
        return
    measure_rules(options.data)
    measure_cost()
    if not options.quick:
        import torch

        torch.set_num_threads(options.threads)
        measure_classifier("spam", "spam")
        measure_classifier("toxicity", "0")


if __name__ == "__main__":
    main()
