"""The whole preparation: documents per second and core, memory as the input grows, the same bytes from any workers.

    python benchmarks/preparation.py              # 1x, 4x and 16x of the installed packages' Python files
    python benchmarks/preparation.py --workers    # also on clusters of 1, 2 and 4 nodes
    python benchmarks/preparation.py --quick      # a smoke run

Larger inputs are the same files with half of their longer words changed, so that they are as long and no copies. Every
size runs in a process of its own without Ray; its peak memory is the kernel's (VmHWM).
"""

import argparse
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FILES = 1500
PACKAGES = ("transformers", "torch", "ray", "mlflow", "numpy", "pandas", "sqlalchemy", "peft", "accelerate", "sympy")
WORD = re.compile(r"\b[a-z_]{6,}\b")


def documents(folder: Path, times: int, files: int) -> tuple[Any, Any]:
    """A context in a folder, and a documents artifact of `files` real files, `times` times over."""
    from soldiom_ray.artifacts import Artifacts, Context
    from soldiom_ray.records import Document, now
    from soldiom_ray.settings import load_settings
    from soldiom_ray.storage import open_storage

    settings = load_settings({"SOLDIOM_HOME": str(folder)})
    context = Context(settings, Artifacts(open_storage(settings)), lambda share, message: None)
    draft, rows, shard = context.artifacts.draft("documents", {"times": times, "files": files}), [], 0
    if done := draft.finished():
        return context, done
    for copy in range(times):
        for path in real_files(files):
            text = path.read_text(errors="replace") if not copy else changed(path.read_text(errors="replace"), copy)
            name = f"{copy}/{'/'.join(path.parts[-4:])}"
            row = Document(
                id=hashlib.sha256(name.encode()).hexdigest()[:32], text=text, source="local", url=name, path=name,
                group=f"{copy}/{path.parts[path.parts.index('site-packages') + 1]}", sha256="0" * 64, license="MIT",
                language="python", collected_at=now(),
            )  # fmt: skip
            rows.append(row.model_dump())
            if len(rows) == 1000:
                draft.write_rows(f"documents/{shard:05d}.parquet", rows, Document)
                rows, shard = [], shard + 1
    draft.write_rows(f"documents/{shard:05d}.parquet", rows, Document)
    return context, draft.commit(counts={"documents": times * files})


def real_files(count: int) -> list[Path]:
    """Python files of installed packages of 1 to 100 kB, spread over the packages by a hash."""
    root = Path(next(path for path in sys.path if path.endswith("site-packages")))
    paths = [path for name in PACKAGES for path in (root / name).rglob("*.py") if 1_000 < path.stat().st_size < 100_000]
    return sorted(paths, key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())[:count]


def changed(text: str, copy: int) -> str:
    """Half of the longer words, chosen by their hash, get an ending of this copy's own."""
    ending = "".join(chr(97 + int(digit)) for digit in str(copy))
    return WORD.sub(lambda m: m[0] + ending if hash_of(m[0]) % 2 else m[0], text)


def hash_of(word: str) -> int:
    return hashlib.blake2b(word.encode(), digest_size=2).digest()[0]


def measure(context: Any, made: Any, address: str) -> None:
    """One measurement, printed as JSON: documents, seconds, CPU seconds, peak MiB, and the shards' hashes."""
    from soldiom_ray.domains.schema import Prepare
    from soldiom_ray.prepare import prepare

    if address != "-":
        import ray

        ray.init(address=address, log_to_driver=False, logging_level="error")
    began, used = time.monotonic(), time.process_time()
    dataset = prepare(context, [made], Prepare())
    result = {
        "documents": dataset.counts["documents"],
        "kept": dataset.counts["kept"],
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - used,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bytes": hashlib.sha256(
            repr([(e.name, e.sha256) for e in dataset.files if "parquet" in e.name]).encode()
        ).hexdigest(),
    }
    print("RESULT " + json.dumps(result), flush=True)


def run(times: int, files: int, address: str = "") -> dict[str, Any]:
    """A measurement in a process of its own; the documents are made by another one, so that they leave no memory."""
    with tempfile.TemporaryDirectory() as folder:
        given = [folder, str(times), str(files), address or "-"]
        subprocess.run([sys.executable, __file__, "--child", "make", *given], check=True)
        measured = [sys.executable, __file__, "--child", "measure", *given]
        done = subprocess.run(measured, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, folder, times, files, address = options.child
        context, made = documents(Path(folder), int(times), int(files))
        return measure(context, made, address) if what == "measure" else None
    files = 200 if options.quick else FILES
    print("| input | documents | kept | seconds | documents/s per core | peak MiB | of 1x |")
    print("|---|---|---|---|---|---|---|")
    first: dict[str, Any] = {}
    for times in (1, 4) if options.quick else (1, 4, 16):
        result = run(times, files)
        first = first or result
        print(
            f"| {times}x | {result['documents']:,} | {result['kept']:,} | {result['seconds']:.1f} |"
            f" {result['documents'] / result['cpu']:.0f} | {result['mib']:.0f} | {result['mib'] / first['mib']:.2f} |",
            flush=True,
        )
    if options.workers:
        from ray.cluster_utils import Cluster

        print("\n| nodes | seconds | same bytes as without Ray |\n|---|---|---|")
        for nodes in (1, 2, 4):
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            for _ in range(nodes - 1):
                cluster.add_node(num_cpus=1)
            result = run(1, files, cluster.address)
            cluster.shutdown()
            print(f"| {nodes} | {result['seconds']:.1f} | {result['bytes'] == first['bytes']} |", flush=True)
    return None


if __name__ == "__main__":
    main()
