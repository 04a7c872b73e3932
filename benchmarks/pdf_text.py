"""Pages of PDF text a second on one core: this project's parser against pdfplumber and pypdf, on the same real files.

    python -m venv /some/where && /some/where/bin/pip install pdfplumber pypdf
    .venv/bin/python benchmarks/pdf_text.py --peers /some/where [FILE OR FOLDER ...]

Without paths: the PDFs of ../shared/data/documents, of installed Python packages and of /usr/share/doc. Peers run in
their own environment as a child process, one after the other, each file once to warm up and `--rounds` times for the
clock; the fastest round counts, for every side alike. Files that a side cannot open, and files without a text layer,
are left out for all. "Found" is the share of pdfplumber's words and of its letters (with their count, file by file)
that a side gives too: where pdfplumber glues words together, keeps hyphens at line ends or spells Arabic backwards, the
words differ and the letters do not.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

SCRIPT = Path(__file__).resolve()
DEFAULT_PATHS = (SCRIPT.parents[2] / "shared" / "data" / "documents", Path(sys.prefix), Path("/usr/share/doc"))
SIDES = ("soldiom", "pdfplumber", "pypdf")


def soldiom(path: Path) -> tuple[str, int]:
    """(text, pages) of a PDF, as the two functions below."""
    from soldiom_ray.collect.documents.parsed import ParseOptions
    from soldiom_ray.collect.documents.pdf import parse

    (parsed,) = parse(path.name, path.read_bytes(), ParseOptions(ocr=False))
    return parsed.text, parsed.metadata["pages"]


def pdfplumber(path: Path) -> tuple[str, int]:
    import pdfplumber as peer  # type: ignore[import-not-found, unused-ignore]

    with peer.open(path) as document:
        return "\n\n".join(page.extract_text() or "" for page in document.pages), len(document.pages)


def pypdf(path: Path) -> tuple[str, int]:
    import pypdf as peer  # type: ignore[import-not-found, unused-ignore]

    document = peer.PdfReader(path)
    return "\n\n".join(page.extract_text() or "" for page in document.pages), len(document.pages)


def measure(read: Callable[[Path], tuple[str, int]], paths: list[Path], rounds: int) -> dict[str, dict[str, object]]:
    """Per file the text, its pages and the seconds of the fastest round; files that fail are not in it."""
    results: dict[str, dict[str, object]] = {}
    skipped: list[str] = []
    for path in paths:
        try:
            text, pages = read(path)
        except Exception as error:
            skipped.append(f"{path.name} ({type(error).__name__})")
            continue
        times = []
        for _ in range(rounds):
            start = time.process_time()
            read(path)
            times.append(time.process_time() - start)
        results[str(path)] = {"text": text, "pages": pages, "seconds": min(times)}
    if skipped:
        print(f"{read.__name__} leaves out {len(skipped)}: {', '.join(skipped)}", file=sys.stderr)
    return results


def pdfs(roots: list[Path]) -> list[Path]:
    """The PDFs among files and below folders, one of those with equal content."""
    files = [path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*.pdf")))]
    return list({path.read_bytes(): path for path in files}.values())


def child(python: Path, side: str, paths: list[Path], rounds: int) -> dict[str, dict[str, object]]:
    """`measure` in a process with another interpreter."""
    command = [str(python), str(SCRIPT), "--side", side, "--rounds", str(rounds), *map(str, paths)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, check=True, env=environment)
    print(*(line for line in run.stderr.decode().splitlines() if " leaves out " in line), sep="\n", file=sys.stderr)
    return dict(json.loads(run.stdout))


def report(results: dict[str, dict[str, dict[str, object]]]) -> None:
    """Print speed per file, and speed and recall per side."""
    common = set.intersection(*(set(files) for files in results.values()))
    shared = sorted(path for path in common if any(str(files[path]["text"]).strip() for files in results.values()))
    seconds = {side: [float(str(files[path]["seconds"])) for path in shared] for side, files in results.items()}
    pages = [int(str(results["pdfplumber"][path]["pages"])) for path in shared]
    for path, count, ours, theirs in zip(shared, pages, seconds["soldiom"], seconds["pdfplumber"], strict=True):
        print(
            f"{Path(path).name}: {count} pages, {1000 * ours / count:.2f} ms a page, {theirs / ours:.0f} x pdfplumber"
        )
    print("\n| | files | pages | pages/s on one core | times pdfplumber | its words found | its letters found |")
    print("|---|---|---|---|---|---|---|")
    words, letters = (
        {side: counted(files, shared, cut) for side, files in results.items()} for cut in (str.split, without_spaces)
    )
    for side in sorted(results, key=lambda side: sum(seconds[side])):
        ratio = sum(seconds["pdfplumber"]) / sum(seconds[side])
        shares = [
            (count[side] & count["pdfplumber"]).total() / count["pdfplumber"].total() for count in (words, letters)
        ]
        speed = f"{sum(pages) / sum(seconds[side]):.0f} | {ratio:.1f}"
        print(f"| {side} | {len(shared)} | {sum(pages)} | {speed} | {shares[0]:.1%} | {shares[1]:.2%} |")


def counted(
    files: dict[str, dict[str, object]], paths: list[str], cut: Callable[[str], Iterable[str]]
) -> Counter[tuple[str, str]]:
    """How often each part of the texts (a word, a letter) occurs in each file."""
    return Counter((path, part) for path in paths for part in cut(str(files[path]["text"])))


def without_spaces(text: str) -> str:
    return "".join(text.split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--peers", type=Path, help="a virtual environment with pdfplumber and pypdf")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        read = {"soldiom": soldiom, "pdfplumber": pdfplumber, "pypdf": pypdf}[options.side]
        json.dump(measure(read, options.paths, options.rounds), sys.stdout)
        return
    paths = pdfs([path for path in options.paths or DEFAULT_PATHS if path.exists()])
    if not paths or not options.peers:
        parser.error("no PDF found; give files or folders" if not paths else "give --peers, see above")
    peers = options.peers / "bin" / "python"
    report(
        {
            side: child(Path(sys.executable) if side == "soldiom" else peers, side, paths, options.rounds)
            for side in SIDES
        }
    )


if __name__ == "__main__":
    main()
