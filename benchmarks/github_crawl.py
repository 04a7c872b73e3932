"""What a crawl of GitHub costs us: requests, our own seconds, memory; and what a second crawl costs.

A server on this machine plays GitHub (tests/stand_in) in a process of its own, over repositories made of files of the
standard library. Each crawl runs in a fresh process with a fresh home; our own seconds are that process's processor
time (with --ray the driver's alone), without what importing costs; peak memory is its VmHWM.

    .venv/bin/python benchmarks/github_crawl.py [--repositories 200 2000] [--ray] [--profile FILE]
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from datetime import date, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
TOPICS = ("machine-learning", "deep-learning", "ai")
LANGUAGES = ("Python", "Jupyter Notebook")
FILES_PER_REPOSITORY = 12
"""About 170 KiB of text each, so that 200 repositories too fill shards (8 MiB), of which memory holds one."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--quick", action="store_true", help="20 repositories only")
    parser.add_argument("--ray", action="store_true", help="crawl by actors of a local Ray cluster of 2 CPUs")
    parser.add_argument("--profile", help="write cProfile's figures of the first crawl to this file")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--crawl", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    elif arguments.crawl:
        crawl(arguments.crawl[0], Path(arguments.crawl[1]), arguments.ray, arguments.profile)
    else:
        counts = [20] if arguments.quick else arguments.repositories
        print_table([measure(count, arguments.ray, arguments.profile) for count in counts])


def measure(count: int, by_ray: bool, profile: str | None) -> dict[str, Any]:
    """Two crawls of a world of `count` repositories."""
    home = Path(tempfile.mkdtemp(prefix="soldiom-bench-"))
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(count)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = server.stdout.readline().strip()
        rows = []
        for number in range(2):
            options = [*(["--ray"] if by_ray else []), *(["--profile", profile] if profile and not number else [])]
            command = [sys.executable, __file__, "--crawl", url, str(home), *options]
            before = ask(url)
            started = time.monotonic()
            finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row = json.loads(finished.stdout.splitlines()[-1]) | {"wall": time.monotonic() - started}
            after = ask(url)
            rows.append(row | {name: after[name] - before[name] for name in ("requests", "unchanged")})
        return {"count": count, "first": rows[0], "second": rows[1], "sins": ask(url)["sins"]}
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(home, ignore_errors=True)


def crawl(url: str, home: Path, by_ray: bool, profile: str | None) -> None:
    """One crawl in this process; its figures as JSON."""
    import cProfile

    from soldiom_ray.artifacts import Artifacts, Context
    from soldiom_ray.collect import collect
    from soldiom_ray.domains.sources import GithubSource
    from soldiom_ray.settings import load_settings
    from soldiom_ray.storage import open_storage

    warm_up()
    if by_ray:
        import ray

        ray.init(num_cpus=2, log_to_driver=False, logging_level="error", include_dashboard=False)
    settings = load_settings({"SOLDIOM_HOME": str(home), "SOLDIOM_GITHUB_API_URL": url, "SOLDIOM_GITHUB_TOKEN": "one"})
    context = Context(settings, Artifacts(open_storage(settings)), lambda share, message: None)
    held, before = memory_kib("VmRSS"), time.process_time()
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    manifest = collect(context, [GithubSource(pushed_within_days=40_000)])
    if profile:
        profiler.disable()
        profiler.dump_stats(profile)
    print(
        json.dumps(
            {
                "seconds": time.process_time() - before,
                "peak": memory_kib("VmHWM"),
                "held": held,
                "documents": manifest.counts["documents"],
                "repositories": manifest.details["repositories"],
                "id": manifest.id,
            }
        )
    )


def warm_up() -> None:
    """Import what a crawl uses, so that the first crawl is not charged for it."""
    import github  # noqa: F401
    import httpx2  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    from soldiom_ray.collect import document_writer  # noqa: F401
    from soldiom_ray.collect import github as crawling  # noqa: F401


def serve(count: int) -> None:
    """The stand-in server with `count` repositories; its address is the first line printed."""
    from stand_in import Repository, StandIn

    dice = random.Random(count)
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [path.read_bytes() for path in modules if 1_000 < path.stat().st_size < 40_000]
    with StandIn() as server:
        server.github.limits = {"core": (1_000_000, 3600.0), "search": (60_000, 60.0)}
        for number in range(count):
            files = {f"src/m{n}.py": dice.choice(texts) for n in range(FILES_PER_REPOSITORY)}
            files["README.md"] = b"# Repository %d\n\nWords about it.\n" % number
            created = date(2012, 1, 1) + timedelta(days=dice.randrange(5000))
            server.add(
                Repository(
                    f"owner/r{number}",
                    files,
                    stars=1001 + int(dice.paretovariate(1.0) * 10),
                    topics=tuple(dice.sample(TOPICS, dice.randint(1, 2))),
                    language=dice.choice(LANGUAGES),
                    created_at=f"{created}T00:00:00Z",
                )
            )
        print(server.url, flush=True)
        answer = server.answer

        def answer_with_figures(request: Any) -> Any:
            if request.path != "/figures":
                return answer(request)
            from stand_in.server import Answer

            asked = [request for request in server.log if request.path != "/figures"]
            figures = {"requests": len(asked), "unchanged": server.github.unchanged, "sins": server.sins}
            return Answer(200, json.dumps(figures).encode())

        server.answer = answer_with_figures  # type: ignore[method-assign]
        while os.getppid() != 1:
            time.sleep(1)


def ask(url: str) -> dict[str, int]:
    """The server's figures so far."""
    with urllib.request.urlopen(f"{url}/figures") as answer:
        figures: dict[str, int] = json.load(answer)
        return figures


def memory_kib(name: str) -> int:
    """A line of this process's status, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:")))


def print_table(rows: list[dict[str, Any]]) -> None:
    """Markdown."""
    print("| repositories | requests each | own ms each | wall s | peak MiB | again: 304s | requests | own ms each |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        first, second, count = row["first"], row["second"], row["count"]
        assert first["repositories"] == count and second["id"] == first["id"], row
        first_cells = (count, f"{first['requests'] / count:.2f}", f"{1000 * first['seconds'] / count:.1f}")
        cost_cells = (f"{first['wall']:.0f}", f"{first['peak'] / 1024:.0f}")
        again_cells = (
            f"{100 * second['unchanged'] / second['requests']:.1f} %",
            f"{second['requests'] / count:.2f}",
            f"{1000 * second['seconds'] / count:.1f}",
        )
        print("|", " | ".join(map(str, (*first_cells, *cost_cells, *again_cells))), "|")
    if len(rows) > 1:
        ratio = rows[-1]["first"]["peak"] / rows[0]["first"]["peak"]
        print(f"\nPeak memory at {rows[-1]['count']} is {ratio:.2f} times that at {rows[0]['count']}.")


if __name__ == "__main__":
    main()
