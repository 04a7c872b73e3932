"""Preparation on simulated clusters of 1 to 16 nodes: documents per second and node, and what the driver itself costs.

    python benchmarks/scale.py                  # 1, 2, 4, 8 and 16 nodes of one CPU, on this machine
    python benchmarks/scale.py --nodes 1 4      # some of them
    python benchmarks/scale.py --quick          # a smoke run

Two cores cannot be sixteen, so a worker computes on short documents and then sleeps until it has taken what the same
number of real ones takes one core (measured on `preparation.py`'s files, for each pass). All else is real: Ray's
nodes, the pool of actors, what travels, the driver's own work on every document, storage. The input grows with the
nodes, so documents per second and node would stay the same on an ideal system. "Driver" is the CPU time of the driver's
process: its own work on every document, and Ray Data's polling for as long as it takes. A node is as fast as a quarter
of a core (--slower), or the short documents of sixteen nodes would take both cores of this machine.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

PARTS_PER_NODE = 8
DOCUMENTS_PER_PART = 2_000
"""About as many source files as one part of 3 MB, compressed, holds."""
WORDS = 60
MILLISECONDS = {"ProcessPart": 1.7, "HashNgrams": 0.8, "MeasureOverlap": 0.55, "WriteShard": 0.24}
"""Of a document in each pass, on one core: 6,000 Python files of packages, 10 kB each. HashNgrams reads only the test
side, a tenth of them."""


@dataclass(frozen=True)
class Paced:
    """A function that takes as long as it would on real documents; `count` says how many a piece and its result are."""

    function: Callable[[Any], Any]
    seconds: float
    count: Callable[[Any, Any], int]

    def __call__(self, piece: Any) -> Any:
        began = time.monotonic()
        result = self.function(piece)
        time.sleep(max(0.0, self.seconds * self.count(piece, result) - (time.monotonic() - began)))
        return result


def count_of(piece: Any, result: Any) -> int:
    """Documents of a piece of any pass."""
    if isinstance(result, int):
        return result
    return sum(len(part.rows) for part in piece.parts) if hasattr(piece, "parts") else len(piece.rows)


def pace(milliseconds: dict[str, float]) -> None:
    """Have the preparation's passes take their time."""
    from soldiom_ray.actors import Workers

    map_in_order = Workers.map_in_order

    def paced(self: Workers, function: Any, pieces: Any, *rest: Any) -> Any:
        return map_in_order(self, Paced(function, milliseconds[type(function).__name__] / 1e3, count_of), pieces, *rest)

    Workers.map_in_order = paced  # type: ignore[method-assign]


def documents(context: Any, parts: int) -> Any:
    """A documents artifact of short texts of random words, one shard for each part."""
    from soldiom_ray.records import Document, now

    draft = context.artifacts.draft("documents", {"parts": parts, "of": DOCUMENTS_PER_PART})
    dice, when = random.Random(parts), now()
    vocabulary = ["".join(dice.choices("abcdefghijklmnoprstuvwy", k=dice.randint(3, 9))) for _ in range(20_000)]
    for part in range(parts):
        rows = []
        for number in range(DOCUMENTS_PER_PART):
            name = f"{part}/{number}"
            text = ". ".join(" ".join(dice.choices(vocabulary, k=12)).capitalize() for _ in range(WORDS // 12)) + "."
            row = Document(
                id=blake2b(name.encode(), digest_size=16).hexdigest(), text=text, source="local", url=name, path=name,
                group=f"{part}/{number // 20}", sha256="0" * 64, license="MIT", language="en", collected_at=when,
            )  # fmt: skip
            rows.append(row.model_dump())
        draft.write_rows(f"documents/{part:05d}.parquet", rows, Document)
    return draft.commit(counts={"documents": parts * DOCUMENTS_PER_PART})


def measure(folder: Path, address: str, parts: int, slower: float) -> dict[str, float]:
    """One preparation of so many parts on the cluster there."""
    import ray

    from soldiom_ray.artifacts import Artifacts, Context
    from soldiom_ray.domains.schema import Prepare
    from soldiom_ray.prepare import pipeline, prepare
    from soldiom_ray.settings import load_settings
    from soldiom_ray.storage import open_storage

    settings = load_settings({"SOLDIOM_HOME": str(folder)})
    at: dict[float, float] = {}
    context = Context(
        settings, Artifacts(open_storage(settings)), lambda share, message: at.setdefault(share, time.monotonic())
    )
    made = documents(context, parts)
    pipeline.SHARD_CHARACTERS = DOCUMENTS_PER_PART * WORDS * 7
    pace({name: slower * milliseconds for name, milliseconds in MILLISECONDS.items()})
    ray.init(address=address, log_to_driver=False, logging_level="error")
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    dataset = prepare(context, [made], Prepare.model_validate({"filters": ["near_duplicate"]}))
    seconds, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    count = dataset.counts["documents"]
    return {
        "documents": count,
        "kept": dataset.counts["kept"],
        "seconds": seconds,
        "driver": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "mib": used.ru_maxrss / 1024,
    }


def run(nodes: int, parts: int, slower: float) -> dict[str, float]:
    """One measurement, on a cluster of its own whose head has no CPU, in a process of its own."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    try:
        with tempfile.TemporaryDirectory() as folder:
            child = [sys.executable, __file__, "--child", folder, cluster.address, str(parts), str(slower)]
            done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
    finally:
        cluster.shutdown()
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", nargs="*", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--parts", type=int, default=PARTS_PER_NODE, help="of 2,000 documents, for each node")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--slower", type=float, default=4.0, help="than a core")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, address, parts, slower = options.child
        print("RESULT " + json.dumps(measure(Path(folder), address, int(parts), float(slower))), flush=True)
        return
    nodes, each = ([1, 2], 2) if options.quick else (options.nodes, options.parts)
    print("| nodes | documents | seconds | documents/s per node | of the first | driver, CPU s | MiB |")
    print("|---|---|---|---|---|---|---|")
    first = 0.0
    for count in nodes:
        result = run(count, each * count, options.slower)
        speed = result["documents"] / result["seconds"] / count
        first = first or speed
        print(
            f"| {count} | {result['documents']:,} | {result['seconds']:.1f} | {speed:.0f} | {speed / first:.2f} |"
            f" {result['driver']:.1f} | {result['mib']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
