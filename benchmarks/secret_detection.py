"""Secrets in real files: recall on planted ones, other places found, MB/s; ours and detect-secrets.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install detect-secrets==1.5.0
    python benchmarks/secret_detection.py --peers /tmp/peers

Input: text files of the packages installed beside this interpreter. Into each of a seeded choice one generated secret
is written, in a line as people write it, every kind equally often. A secret counts as found when the place found
covers it (ours), or when its line is reported (detect-secrets, which gives lines). Both run on one core, in turns.
"""

import argparse
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path

from secret_planting import plant

from soldiom_ray.redaction import FINDERS, literal_index
from soldiom_ray.redaction.scan import Scan

SUFFIXES = {".py", ".md", ".rst", ".txt", ".json", ".yaml", ".yml", ".toml", ".cfg", ".js", ".sh"}
PEER = """
import json, sys, time
from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings
found, start = {}, time.perf_counter()
with default_settings():
    for path in json.load(sys.stdin):
        secrets = SecretsCollection()
        secrets.scan_file(path)
        found[path] = [one.line_number for _, one in secrets]
print(json.dumps([time.perf_counter() - start, found]))
"""


def ours(paths: list[str]) -> tuple[float, dict[str, list[tuple[int, int]]]]:
    literals, spans = literal_index(("secret",)), {}
    list(FINDERS["secret"](Scan("import numpy", literals)))
    start = time.perf_counter()
    for path in paths:
        spans[path] = list(FINDERS["secret"](Scan(Path(path).read_text(errors="replace"), literals)))
    return time.perf_counter() - start, spans


def theirs(peers: Path, paths: list[str]) -> tuple[float, dict[str, list[int]]]:
    run = subprocess.run([peers / "bin/python", "-c", PEER], input=json.dumps(paths), capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    seconds, lines = json.loads(run.stdout)
    return seconds, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=Path, help="virtual environment with detect-secrets")
    parser.add_argument("--per-kind", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    draw = random.Random(17)
    files = sorted(p for p in Path(sysconfig.get_path("purelib")).rglob("*") if p.suffix in SUFFIXES and p.is_file())
    files = [path for path in files if 200 < path.stat().st_size < 100_000]
    draw.shuffle(files)
    with tempfile.TemporaryDirectory() as folder:
        planted = plant(files, Path(folder), 2 if options.quick else options.per_kind, draw)
        size = sum(Path(path).stat().st_size for path in planted) / 1e6
        runs = [
            (ours(list(planted)), theirs(options.peers, list(planted)) if options.peers else None)
            for _ in range(1 if options.quick else 3)
        ]
        report(planted, size, runs)


def report(planted: dict, size: float, runs: list) -> None:
    mine, peer = runs[-1][0][1], runs[-1][1][1] if runs[-1][1] else {}
    missed = {"ours": Counter(), "detect-secrets": Counter()}
    other = Counter()
    for path, (kind, secret, number) in planted.items():
        start = Path(path).read_text(errors="replace").index(secret)
        hits = [span for span in mine[path] if span[0] < start + len(secret) and span[1] > start]
        missed["ours"][kind] += not any(a <= start and b >= start + len(secret) for a, b in hits)
        missed["detect-secrets"][kind] += number not in peer.get(path, [])
        other["ours"] += len(mine[path]) - len(hits)
        other["detect-secrets"] += len(set(peer.get(path, [])) - {number})
    seconds = {"ours": min(own[0] for own, _ in runs)}
    if peer:
        seconds["detect-secrets"] = min(other[0] for _, other in runs)
    print(f"{len(planted)} files, {size:.1f} MB, one planted secret each\n")
    print("| | MB/s | recall | other places per MB | missed |\n|---|---|---|---|---|")
    for name, took in seconds.items():
        lost = ", ".join(f"{kind} {count}" for kind, count in missed[name].items() if count) or "-"
        recall = 1 - missed[name].total() / len(planted)
        print(f"| {name} | {size / took:.2f} | {recall:.1%} | {other[name] / size:.2f} | {lost} |")
    ratio = f"ours / detect-secrets: {seconds['detect-secrets'] / seconds['ours']:.0f} times as fast" if peer else ""
    print(f"\n{ratio or 'no peer: own figures only'}")


if __name__ == "__main__":
    main()
