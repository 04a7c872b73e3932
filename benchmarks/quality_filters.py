"""Quality filters against datatrove 0.10's, on the text and source files of the installed packages.

    python benchmarks/quality_filters.py [--peers VENV] [--documents 1500] [--rounds 3] [--quick]

The peer's environment: python -m venv VENV && VENV/bin/pip install "datatrove[processing]==0.10.1" "spacy==3.8.18"
(its English words come from spaCy). Source files are judged as if they were prose, on both sides, for more verdicts.
One process and one core each, in turns, best of the rounds. Ours starts every timing with nothing remembered.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ALONE = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
ALL = "all four"
PROSE, CODE = ("*.md", "*.rst", "*.txt", "METADATA"), ("*.py",)
Reason = str | None


def documents(most: int) -> list[tuple[str, str]]:
    """Path and text: prose first, at most two thirds of all, then source files, each spread over the packages."""
    root = Path(sysconfig.get_path("purelib"))
    chosen: list[Path] = []
    for patterns, share in ((PROSE, most * 2 // 3), (CODE, most)):
        paths = sorted(path for pattern in patterns for path in root.rglob(pattern))
        paths = [path for path in paths if 300 < path.stat().st_size < 200_000]
        chosen += paths[:: max(1, len(paths) // (share - len(chosen)))][: share - len(chosen)]
    return [(str(path.relative_to(root)), path.read_text("utf-8", "replace")) for path in chosen]


def timed(judges: dict[str, Callable[[str], list[Reason]]], texts: list[str], fresh: Callable[[], None]) -> Any:
    """Seconds of processor time and verdicts of each filter alone, and of all on each document."""
    seconds: dict[str, float] = {}
    verdicts: dict[str, list[Reason]] = {}
    for name, judge in judges.items():
        fresh()
        start = time.process_time()
        judged = [judge(text) for text in texts]
        seconds[name] = time.process_time() - start
        if name != ALL:
            verdicts[name] = [reasons[0] for reasons in judged]
    return {"seconds": seconds, "verdicts": verdicts}


def our_judges() -> tuple[dict[str, Callable[[str], list[Reason]]], Callable[[], None]]:
    from soldiom_ray.prepare.filters import FILTERS, prose_tokens
    from soldiom_ray.prepare.filters.filter_text import FilterText

    def judge(names: tuple[str, ...]) -> Callable[[str], list[Reason]]:
        filters = [FILTERS[name] for name in names]

        def apply(text: str) -> list[Reason]:
            document = FilterText(text, False)
            return [judge_text(document) for judge_text in filters]

        return apply

    def fresh() -> None:
        prose_tokens._chunks = prose_tokens._ChunkTable()

    return {name: judge((name,)) for name in ALONE} | {ALL: judge(ALONE)}, fresh


def peer_judges() -> tuple[dict[str, Callable[[str], list[Reason]]], Callable[[], None]]:
    from datatrove.data import Document
    from datatrove.pipeline import filters as published
    from datatrove.utils.text import split_into_parts, split_into_words

    filters = {
        "gopher_quality": published.GopherQualityFilter(),
        "gopher_repetition": published.GopherRepetitionFilter(),
        "c4": published.C4QualityFilter(),
        "fineweb": published.FineWebQualityFilter(),
    }

    def judge(names: tuple[str, ...]) -> Callable[[str], list[Reason]]:
        def apply(text: str) -> list[Reason]:
            answers = [filters[name].filter(Document(text=text, id="")) for name in names]
            return [
                None if answer is True else answer[1] if isinstance(answer, tuple) else "refused" for answer in answers
            ]

        return apply

    split_into_words("load the tokenizer")
    return {name: judge((name,)) for name in ALONE} | {ALL: judge(ALONE)}, split_into_parts.cache_clear


def run_child(python: str, side: str, source: Path, folder: Path) -> Any:
    out = folder / f"{side}.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([python, "-P", __file__, "--child", side, source, out], check=True, env=environment)
    return json.loads(out.read_text())


def table(ours: Any, peer: Any, count: int) -> Iterator[str]:
    yield "| filter | ours, documents/s | datatrove | ratio | same verdict | refused |"
    yield "|---|---|---|---|---|---|"
    for name in (*ALONE, ALL):
        rate = count / ours["seconds"][name]
        verdicts = ours["verdicts"].get(name)
        refused = sum(verdict is not None for verdict in verdicts) if verdicts else ""
        if not peer:
            yield f"| {name} | {rate:,.0f} | | | | {refused} |"
            continue
        theirs = count / peer["seconds"][name]
        same = ""
        if verdicts:
            equal = sum((a is None) == (b is None) for a, b in zip(verdicts, peer["verdicts"][name], strict=True))
            same = f"{equal / count:.2%} ({count - equal} differ)"
        yield f"| {name} | {rate:,.0f} | {theirs:,.0f} | {rate / theirs:.1f} | {same} | {refused} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="100 documents, one round")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        side, source, out = options.child
        judges, fresh = our_judges() if side == "ours" else peer_judges()
        Path(out).write_text(json.dumps(timed(judges, json.loads(Path(source).read_text()), fresh)))
        return
    files = documents(100 if options.quick else options.documents)
    best: dict[str, Any] = {"ours": None, "peer": None}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.json"
        source.write_text(json.dumps([text for _, text in files]))
        for _ in range(1 if options.quick else options.rounds):
            pythons = {"ours": sys.executable} | ({"peer": str(options.peers / "bin/python")} if options.peers else {})
            for side, python in pythons.items():
                run = run_child(python, side, source, Path(folder))
                if best[side]:
                    run["seconds"] = {
                        name: min(run["seconds"][name], best[side]["seconds"][name]) for name in run["seconds"]
                    }
                best[side] = run
    print(f"{len(files)} documents, {sum(len(text) for _, text in files) / 1e6:.1f} million characters\n")
    print("\n".join(table(best["ours"], best["peer"], len(files))))
    for name in ALONE if best["peer"] else ():
        for (path, _), mine, theirs in zip(files, *(best[side]["verdicts"][name] for side in best), strict=True):
            if (mine is None) != (theirs is None):
                print(f"differs: {name}: {path}: ours {mine or 'keeps'}; datatrove {theirs or 'keeps'}")
    if not best["peer"]:
        print("\nOwn figures only: no --peers.")


if __name__ == "__main__":
    main()
