"""Throughput of the parsers, family by family, on one core: MB and documents per second, the best of three rounds.

    python benchmarks/parsers.py [--quick] [--data FOLDER]

Input is real: the files of the shared data folder and of installed packages. Where nothing real exists it is generated
from real rows and texts, and the table says so. Documents are what a parser gives: one per row of a CSV of questions.
"""

import argparse
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParseOptions
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.text import SkippedError

Files = list[tuple[str, bytes]]
SHARED = Path(__file__).parents[2] / "shared" / "data"
ROUNDS = 3
MAX_BYTES = 8 << 20


def below(folder: Path, *endings: str) -> Files:
    """The files of a folder with these endings, at most 8 MiB of them."""
    files: Files = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in endings and path.is_file() and sum(len(data) for _, data in files) < MAX_BYTES:
            files.append((path.name, path.read_bytes()))
    return files


def rows_of(data: Path) -> list[dict[str, str]]:
    """Real rows: instructions and their outputs."""
    return [json.loads(line) for line in (data / "instruct_short" / "train.jsonl").read_text().splitlines()]


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    """The bytes that a writer writes."""
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def presentation(rows: list[dict[str, str]]) -> bytes:
    """A PowerPoint file with a slide for each of 100 rows."""
    import pptx

    show = pptx.Presentation()
    for row in rows[:100]:
        slide = show.slides.add_slide(show.slide_layouts[1])
        slide.shapes.title.text = row["instruction"]
        slide.placeholders[1].text = row["output"]
    return saved(show.save)


def mailbox(rows: list[dict[str, str]]) -> bytes:
    """A mailbox with a message for each row."""
    return "".join(f"From a@x.example\nSubject: Task\n\n{row['output']}\n\n" for row in rows).encode()


def rich_text(text: str) -> bytes:
    """An RTF file of the text's first 400,000 characters."""
    words = text[:400_000].replace("\\", "\\\\").replace("{", "\\{").replace("}", "\\}").replace("\n", "\\par\n")
    return b"{\\rtf1\\ansi " + words.encode("cp1252", "ignore") + b"}"


def zipped(files: Files) -> bytes:
    """The files in a zip archive."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, content) in enumerate(files):
            archive.writestr(f"{number}/{name}", content)
    return sink.getvalue()


def inputs(data: Path) -> list[tuple[str, str, Callable[[], Files]]]:
    """(family, what it is, its files)."""
    documents, rows = data / "documents", rows_of(data)
    to_excel = partial(pandas.DataFrame(rows).to_excel, engine="xlsxwriter")
    shakespeare = data / "text_tinyshakespeare" / "input.txt"
    packed = below(documents, ".docx", ".odt", ".html", ".md", ".csv")
    return [
        ("text", "Shakespeare", lambda: below(shakespeare.parent, ".txt")),
        ("text", "Python's standard library", lambda: below(Path(json.__file__).parents[1] / "asyncio", ".py")),
        ("html", "Wikipedia", lambda: below(documents / "html", ".html")),
        ("table", "event logs, CSV", lambda: below(data / "forensic_timesketch", ".csv") * 10),
        ("json", "conversations", lambda: below(data / "instruct_toolcall", ".jsonl")),
        ("json", "contracts", lambda: below(data / "legal_legalbench", ".jsonl")),
        ("docx", "test documents", lambda: below(documents / "docx", ".docx")),
        ("pptx", "generated: 100 slides of real texts", lambda: [("a.pptx", presentation(rows))]),
        ("workbook", "generated: 1,000 real rows", lambda: [("a.xlsx", saved(to_excel))]),
        ("opendocument", "a test document", lambda: below(documents / "odf", ".odt")),
        ("epub", "a book", lambda: below(documents / "epub", ".epub")),
        ("email", "generated: 1,000 letters of real texts", lambda: [("a.mbox", mailbox(rows))]),
        ("rtf", "generated: Shakespeare", lambda: [("a.rtf", rich_text(shakespeare.read_text()))]),
        ("parquet", "generated: 1,000 real rows", lambda: [("a.parquet", saved(pandas.DataFrame(rows).to_parquet))]),
        ("sqlite", "Chinook", lambda: below(data / "db_chinook", ".sqlite")),
        ("sql", "Chinook for PostgreSQL", lambda: below(data / "db_chinook", ".sql")),
        ("archive", "the office files above in a zip", lambda: [("a.zip", zipped(packed))]),
        ("pdf", "reports in several scripts", lambda: below(documents / "pdf", ".pdf")),
    ]  # fmt: skip


def measure(files: Files, rounds: int) -> tuple[float, int]:
    """(seconds of the fastest round, number of texts)."""
    best, texts = float("inf"), 0
    for _ in range(rounds):
        start, texts = time.perf_counter(), 0
        for name, content in files:
            try:
                texts += len(parse_bytes(name, content, ParseOptions(ocr=False)))
            except SkippedError as skipped:
                print(f"{name}: {skipped.reason}, {skipped.detail}", file=sys.stderr)
        best = min(best, time.perf_counter() - start)
    return best, texts


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="one round and at most three files of each family")
    arguments.add_argument("--data", type=Path, default=SHARED)
    options = arguments.parse_args()
    if not options.data.is_dir():
        sys.exit(f"There is no data at {options.data}; name its folder with --data.")
    rounds = 1 if options.quick else ROUNDS
    print("| family | input | files | MB | MB/s | documents/s |\n|---|---|---|---|---|---|")
    for family, description, make in inputs(options.data):
        files = make()[:3] if options.quick else make()
        measure(files[:1], 1)
        seconds, texts = measure(files, rounds)
        size = sum(len(content) for _, content in files) / 1e6
        columns = f"{len(files)} | {size:.2f} | {size / seconds:.1f} | {texts / seconds:,.0f}"
        print(f"| {family} | {description} | {columns} |", flush=True)
    print(f"\n{in_the_sandbox(20 if options.quick else 500)}")


def in_the_sandbox(count: int) -> str:
    """Start-up time and time per small file of the sandbox."""
    with Sandbox() as sandbox:
        times = [time.perf_counter()]
        for _ in range(count + 1):
            sandbox.parse("a.txt", b"words " * 1000)
            times.append(time.perf_counter())
    started, each = (times[1] - times[0]) * 1e3, (times[-1] - times[1]) / count * 1e3
    return f"The parsers' process starts in {started:.0f} ms; then a file of 6 kB takes {each:.2f} ms."


if __name__ == "__main__":
    main()
