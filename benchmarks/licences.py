"""Licences of licence files: agreement with ScanCode, and files per second of both.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install scancode-toolkit-mini==32.5.0 "pluggy<1.6"
    python benchmarks/licences.py --peers /tmp/peers

Input: the licence files (LICENSE*, LICENCE*, COPYING*, UNLICENSE*, *.LICENSE) of the packages installed beside this
interpreter, each content read once. ScanCode's index is loaded before its clock starts, and so are our fingerprints.
Both run on one core, one after the other.

Two readings agree when they name the same SPDX licences; AND, OR and WITH are not compared, for ScanCode joins every
mention by AND. ScanCode's own `LicenseRef-scancode-*` have no SPDX id and are left out, and so is its GPL-1.0-or-later,
which stands for the bare word "GPL". Python-2.0, Python-2.0.1 and PSF-2.0 are one. A file
where ScanCode names ids of its own alone cannot be compared. `main` compares only the licence that the
file gives most of its words to (ours) with those that ScanCode names.
"""

import argparse
import json
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from soldiom_ray.licenses import LicenseReading, read_text

NAME = re.compile(r"(?i)^(?:licen[cs]es?|copying|unlicense)(?:[._-]|$)|[.-]licen[cs]e(?:\.txt|\.md)?$")
NOT_TEXT = {".py", ".pyc", ".pyi", ".html", ".h", ".js", ".json", ".so", ".ABOUT"}
PEER = """
import json, sys, time
from scancode.api import get_licenses
paths = json.load(sys.stdin)
get_licenses(paths[0])
start, found = time.perf_counter(), {}
for path in paths:
    found[path] = get_licenses(path)["detected_license_expression_spdx"]
print(json.dumps([time.perf_counter() - start, found]))
"""


def licence_files() -> dict[str, int]:
    """Licence files of the installed packages, one path for each content, and how many files have it."""
    paths_by_content: dict[bytes, list[str]] = {}
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*")):
        if NAME.search(path.name) and path.suffix not in NOT_TEXT and path.is_file():
            paths_by_content.setdefault(path.read_bytes(), []).append(str(path))
    return {copies[0]: len(copies) for copies in sorted(paths_by_content.values())}


def ours(paths: list[str]) -> tuple[float, dict[str, LicenseReading]]:
    """(seconds, reading by path) of this project."""
    read_text("Permission is hereby granted, free of charge")
    start = time.perf_counter()
    readings = {path: read_text(Path(path).read_text(errors="replace")) for path in paths}
    return time.perf_counter() - start, readings


def theirs(peers: Path, paths: list[str]) -> tuple[float, dict[str, str | None]]:
    """(seconds, SPDX expression by path) of ScanCode."""
    command = [peers / "bin/python", "-W", "ignore", "-c", PEER]
    run = subprocess.run(command, input=json.dumps(paths), capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    seconds, expressions = json.loads(run.stdout.strip().split("\n")[-1])
    return seconds, expressions


def ids(expression: str | None) -> set[str]:
    """The SPDX licences that an expression names."""
    names = set(re.findall(r"[A-Za-z0-9.+-]+", expression or "")) - {"AND", "OR", "WITH", "GPL-1.0-or-later"}
    listed = {name for name in names if not name.startswith("LicenseRef-") and "exception" not in name.lower()}
    return {"Python-2.0" if name in ("Python-2.0.1", "PSF-2.0") else name for name in listed}


def main_id(reading: LicenseReading) -> str:
    """The licence that most words of a file belong to."""
    words: dict[str, int] = {}
    for part in reading.parts:
        words[part.license] = words.get(part.license, 0) + part.stop - part.start
    return max(words, key=words.__getitem__, default="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=Path, help="virtual environment with ScanCode")
    parser.add_argument("--quick", action="store_true", help="30 files")
    options = parser.parse_args()
    copies = licence_files()
    paths = list(copies)[: 30 if options.quick else None]
    seconds, mine = min((ours(paths) for _ in range(3)), key=lambda run: run[0])
    recognized = sum(bool(reading.expression) for reading in mine.values())
    print(f"{len(paths)} licence files of different content\n\n| | files/s | licence found |\n|---|---|---|")
    print(f"| ours | {len(paths) / seconds:,.0f} | {recognized} |")
    if not options.peers:
        print("\nno peer: own figures only")
        return
    peer_seconds, peer = theirs(options.peers, paths)
    print(f"| ScanCode | {len(paths) / peer_seconds:,.1f} | {sum(bool(expression) for expression in peer.values())} |")
    paths = [path for path in paths if ids(peer[path]) or not peer[path]]
    differ = [path for path in paths if ids(mine[path].expression) != ids(peer[path])]
    wrong = [path for path in differ if ids(peer[path]) and not ids(main_id(mine[path])) & ids(peer[path])]
    print(f"\nours / ScanCode: {peer_seconds / seconds:,.0f} times as fast")
    for name, other in (("all licences", differ), ("main licence", wrong)):
        share = 1 - sum(copies[path] for path in other) / sum(copies[path] for path in paths)
        print(f"agreement, {name}: {share:.1%} of files, {1 - len(other) / len(paths):.1%} of contents")
    print()
    print("| file | only ours | only ScanCode |\n|---|---|---|")
    for path in differ:
        a, b = ids(mine[path].expression), ids(peer[path])
        print(f"| {path.partition('site-packages/')[2]} | {', '.join(sorted(a - b))} | {', '.join(sorted(b - a))} |")


if __name__ == "__main__":
    main()
