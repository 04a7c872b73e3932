"""How well search finds the function that a sentence describes, and how fast: by meaning, by words, by both.

    python benchmarks/retrieval.py                     # 50,000 passages: a quarter of an hour on two cores
    python benchmarks/retrieval.py --passages 10000
    python benchmarks/retrieval.py --quick             # a smoke run

Input: a seeded choice of Python files of the packages installed beside this interpreter, docstrings of functions taken
out. A question is the first sentence of one of these docstrings, at least five words long and of one function only;
right is any passage of that function. All goes the way it goes for users: the dataset becomes an index in a Chroma
server that is started for it, and `SearchService` answers one question at a time, the model loaded and each way of
searching warm. Function words and the weight of symbols were chosen on the files of seed 11; the default is another.
With `--folder F` the work stays in F, and the same command goes on where it was interrupted.
"""

import argparse
import ast
import asyncio
import hashlib
import os
import random
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.domains.schema import Embed
from soldiom_ray.embed import embed
from soldiom_ray.embed.chunk import PythonDefinition, passages_of, python_definitions
from soldiom_ray.embed.serve import SearchService
from soldiom_ray.records import Manifest, Sample
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage

MODES = ("dense", "lexical", "hybrid")
TOP = 10
FEWEST_WORDS = 5
SHARD_FILES = 300
SENTENCE = re.compile(r"(.+?[.!?])(?:\s|$)", re.DOTALL)

Question = tuple[str, str, str]
"""A sentence, and the document and symbol of the function that it describes."""


def corpus(most_passages: int, max_tokens: int, seed: int = 11) -> tuple[list[dict[str, Any]], list[Question]]:
    """Rows of a dataset with about so many passages, and every question about them."""
    root = Path(sysconfig.get_path("purelib"))
    files = sorted(path for path in root.rglob("*.py") if 1_000 < path.stat().st_size < 100_000)
    random.Random(seed).shuffle(files)
    rows, asked, passages, seen = [], [], 0, set()
    for path in files:
        name = path.relative_to(root).as_posix()
        text, sentences = without_docstrings(path.read_text(errors="replace"))
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        if not text or digest in seen:
            continue
        seen.add(digest)
        passages += len(passages_of(name, name, text, max_tokens))
        asked += [(sentence, name, symbol) for symbol, sentence in sentences]
        rows.append(row(name, text, digest))
        if passages >= most_passages:
            break
    counts = Counter(sentence for sentence, _, _ in asked)
    symbols = Counter((name, symbol) for _, name, symbol in asked)
    return rows, [question for question in asked if counts[question[0]] == 1 and symbols[question[1:]] == 1]


def row(name: str, text: str, digest: str) -> dict[str, Any]:
    return Sample(
        id=name, text=text, split="train", source="local", url=name, path=name, group=name.partition("/")[0],
        version="", commit="", sha256=digest, license="", kind="other", framework="none", language="python",
    ).model_dump()  # fmt: skip


def without_docstrings(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The source without its functions' docstrings, and for each function its symbol and its first sentence. Empty
    where it is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return "", []
    named = {id(node): symbol for node, symbol in python_definitions(tree)}
    lines, questions = text.split("\n"), []
    for node in ast.walk(tree):
        if not isinstance(node, PythonDefinition) or isinstance(node, ast.ClassDef) or not ast.get_docstring(node):
            continue
        if id(node) in named and (sentence := first_sentence(ast.get_docstring(node) or "")):
            questions.append((named[id(node)], sentence))
        stated = node.body[0]
        for number in range(stated.lineno - 1, stated.end_lineno or stated.lineno):
            lines[number] = (
                "" if number != stated.lineno - 1 or len(node.body) > 1 else lines[number][: stated.col_offset] + "..."
            )
    return "\n".join(lines), questions


def first_sentence(docstring: str) -> str:
    """Empty where there is none of FEWEST_WORDS."""
    paragraph = docstring.strip().partition("\n\n")[0]
    match = SENTENCE.match(paragraph)
    sentence = " ".join((match[1] if match else paragraph).split())
    return sentence if len(sentence.split()) >= FEWEST_WORDS and len(sentence) < 300 else ""


def dataset_of(context: Context, rows: list[dict[str, Any]]) -> Manifest:
    draft = context.artifacts.draft("dataset", {"rows": [sample["sha256"] for sample in rows]})
    ordered = sorted(rows, key=lambda sample: (sample["group"], sample["path"]))
    for number, start in enumerate(range(0, len(ordered), SHARD_FILES)):
        draft.write_rows(f"train/{number:05d}.parquet", ordered[start : start + SHARD_FILES], Sample)
    return draft.commit(counts={"train": len(rows)})


@contextmanager
def chroma(folder: Path) -> Iterator[str]:
    """The address of a server on a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--port", str(port), "--path", str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=os.environ | {"ANONYMIZED_TELEMETRY": "FALSE"}, **quiet)
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{port}/api/v2/heartbeat", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


async def measure(service: SearchService, index: Manifest, asked: list[Question]) -> None:
    print(f"| | recall@{TOP} | MRR@{TOP} | p50 ms | p95 ms |\n|---|---|---|---|---|")
    for mode in MODES:
        for sentence, _, _ in asked[:20]:
            await service.search(sentence, TOP, index.id, None, mode)
        ranks, seconds = [], []
        for sentence, document, symbol in asked:
            began = time.perf_counter()
            results = await service.search(sentence, TOP, index.id, None, mode)
            seconds.append(time.perf_counter() - began)
            right = [
                result["metadata"]["document"] == document and result["metadata"]["symbol"] == symbol
                for result in results
            ]
            ranks.append(right.index(True) + 1 if any(right) else 0)
        recall, mrr = np.mean([rank > 0 for rank in ranks]), np.mean([1 / rank if rank else 0.0 for rank in ranks])
        middle, high = (1000 * np.quantile(seconds, share) for share in (0.5, 0.95))
        print(f"| {mode} | {recall:.3f} | {mrr:.3f} | {middle:.1f} | {high:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=12, help="of the choice of files")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    passages, questions = (600, 50) if options.quick else (options.passages, options.questions)
    declared = Embed()
    rows, asked = corpus(passages, declared.max_tokens, options.seed)
    asked = random.Random(3).sample(asked, min(questions, len(asked)))
    with (
        nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder,
        chroma(Path(folder) / "chroma") as url,
    ):
        settings = load_settings({"SOLDIOM_HOME": str(folder), "SOLDIOM_CHROMA_URL": url})
        context = Context(settings, Artifacts(open_storage(settings)), lambda share, message: None)
        dataset = dataset_of(context, rows)
        began = time.perf_counter()
        index = embed(context, dataset, declared)
        rate = index.counts["passages"] / (time.perf_counter() - began)
        lexical = sum(entry.size_bytes for entry in index.files if entry.name.startswith("lexical/"))
        print(f"{index.counts['passages']} passages of {len(rows)} files, {rate:.0f} per second from dataset to index;")
        print(f"inverted index {lexical / 2**20:.1f} MiB; {len(asked)} questions\n", flush=True)
        asyncio.run(measure(SearchService(settings), index, asked))


if __name__ == "__main__":
    main()
