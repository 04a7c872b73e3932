"""Near-duplicates among source files of the installed packages, against datatrove 0.10 and data-juicer 1.6.

    python benchmarks/near_duplicates.py [--datatrove VENV] [--juicer VENV] [--files 3000] [--workers 1] [--quick]

The peers' environments (data-juicer leaves out aiohttp and torch, which it imports):
    python -m venv VENV && VENV/bin/pip install "datatrove[processing]==0.10.1" spacy==3.8.18 orjson
    python -m venv VENV && VENV/bin/pip install py-data-juicer==1.6.1 aiohttp torch
Everyone reads the same files, from Parquet or JSON lines, and writes what is kept; seconds count from the start of the
work in a started interpreter, wall clock, in turns, best of the rounds. Every few files are planted again with some
words changed. near_duplicates_truth.py judges what was dropped.
"""

import argparse
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from near_duplicates_truth import exact_pairs, judged

from soldiom_ray.prepare.deduplication import words as word_hashes
from soldiom_ray.prepare.deduplication.minhash import recall, signatures
from soldiom_ray.prepare.deduplication.near_copies import near_copies
from soldiom_ray.prepare.deduplication.words import content_digest, hash_words, shingles, shingles_of, words_of

THRESHOLD = 0.8
PART = 200
PEERS = Path(__file__).with_name("near_duplicates_peers.py")


def source_files(most: int) -> list[str]:
    """Texts of source files spread over the packages; after every tenth a copy in which up to 5 % of the words are
    replaced, at random."""
    root = Path(sysconfig.get_path("purelib"))
    paths = sorted(path for path in root.rglob("*.py") if 500 < path.stat().st_size < 200_000)
    random_ = random.Random(1)
    texts = []
    for number, path in enumerate(paths[:: max(1, len(paths) // most)][:most]):
        texts.append(path.read_text("utf-8", "replace"))
        if number % 10 == 0:
            share = random_.choice((0.0, 0.002, 0.01, 0.02, 0.05))
            words = [f"w{number}" if random_.random() < share else word for word in texts[-1].split(" ")]
            texts.append(" ".join(words) + "\n# again\n")
    return texts


def part_signatures(source: Path, row_group: int) -> tuple[list[str], list[bytes], list[int]]:
    texts = pq.ParquetFile(source).read_row_group(row_group, columns=["text"]).column("text").to_pylist()
    words = [words_of(text) for text in texts]
    fingerprints = signatures([shingles(hash_words(some)) for some in words])
    return [content_digest(some) for some in words], fingerprints, list(map(len, texts))


def ours(source: Path, target: Path, pool: ProcessPoolExecutor | None) -> None:
    """Fingerprints part by part, exact copies by digest, near ones by bands and their true similarity, kept rows
    written: the steps of the pipeline, without Ray."""
    numbers = range(pq.read_metadata(source).num_row_groups)
    parts = list((pool.map if pool else map)(part_signatures, [source] * len(numbers), numbers))
    digests, fingerprints, sizes = ([value for part in parts for value in part[column]] for column in range(3))
    order = sorted({digest: position for position, digest in reversed(list(enumerate(digests)))}.values())
    table = pq.read_table(source)
    texts = table.column("text")

    def load(positions: set[int]) -> dict[int, Any]:
        wanted_texts = {position: texts[order[position]].as_py() for position in positions}
        return {position: shingles_of(text) for position, text in wanted_texts.items()}

    copies = near_copies(
        [fingerprints[position] for position in order], THRESHOLD, load, [sizes[position] for position in order]
    )
    kept = [row for position, row in enumerate(order) if position not in copies]
    pq.write_table(table.take(kept), target / "kept.parquet", compression="zstd")


def timed_runs(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, float, set[int]]]:
    with ProcessPoolExecutor(options.workers) as pool:
        list(pool.map(part_signatures, [folder / "in.parquet"] * options.workers, [0] * options.workers))
        word_hashes._word_hashes.clear()
        start = time.perf_counter()
        ours(folder / "in.parquet", folder, pool if options.workers > 1 else None)
        seconds = time.perf_counter() - start
    yield "ours", seconds, set(pq.read_table(folder / "kept.parquet", columns=["id"]).column("id").to_pylist())
    for name in ("datatrove", "juicer"):
        if venv := getattr(options, name):
            work = Path(tempfile.mkdtemp(dir=folder))
            command = [venv / "bin/python", "-P", PEERS, name, folder / "in.jsonl", work, str(options.workers)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
            yield (
                name,
                float((work / "seconds").read_text()),
                {int(line) for line in (work / "kept").read_text().split()},
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datatrove", type=Path)
    parser.add_argument("--juicer", type=Path)
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="300 files, one round")
    options = parser.parse_args()
    texts = source_files(300 if options.quick else options.files)
    best: dict[str, tuple[float, set[int]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), folder / "in.parquet", row_group_size=PART)
        with (folder / "in.jsonl").open("w") as out:
            out.writelines(json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(texts))
        for _ in range(1 if options.quick else options.rounds):
            for side, seconds, kept in timed_runs(options, folder):
                best[side] = min(
                    best.get(side, (seconds, kept)), (seconds, kept), key=lambda measurement: measurement[0]
                )
    pairs = exact_pairs(texts, THRESHOLD)
    megabytes = sum(map(len, texts)) / 1e6
    print(f"{len(texts)} files, {megabytes:.0f} MB, {len(pairs)} pairs at {THRESHOLD}, {options.workers} worker(s)\n")
    print("| | seconds | ours is faster | kept | precision | recall | wrong drops |\n|---|---|---|---|---|---|---|")
    for side, (seconds, kept) in best.items():
        precision, found_share, wrong = judged(pairs, kept, len(texts))
        ratio = seconds / best["ours"][0]
        print(f"| {side} | {seconds:.2f} | {ratio:.1f} | {len(kept)} | {precision:.4f} | {found_share:.4f} | {wrong} |")
    print(f"\nA pair at the threshold is compared with probability {recall(THRESHOLD, THRESHOLD):.5f}.")


if __name__ == "__main__":
    main()
