"""The peers' side of near_duplicates.py, run by their own interpreter: PEER INPUT FOLDER WORKERS.

Leaves the ids that were kept in FOLDER/kept and the seconds of the work in FOLDER/seconds.
"""

import json
import sys
import time
from pathlib import Path

THRESHOLD = 0.8


def datatrove(source: Path, folder: Path, workers: int) -> list[int]:
    """MinHash in its four steps, its defaults (14 bands of 8: half of the pairs at 0.72 are found)."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    lines = source.read_text().splitlines(keepends=True)
    for number in range(workers):
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / f"{number}.jsonl").write_text("".join(lines[number::workers]))
    config = MinhashConfig()
    reader = JsonlReader(str(folder / "in"))
    steps = (
        ([reader, MinhashDedupSignature(str(folder / "signatures"), config)], workers),
        ([MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)], config.num_buckets),
        ([MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=config)], 1),
        (
            [reader, MinhashDedupFilter(str(folder / "remove")), JsonlWriter(str(folder / "out"), compression=None)],
            workers,
        ),
    )
    start = time.perf_counter()
    for pipeline, tasks in steps:
        LocalPipelineExecutor(pipeline, tasks, workers, logging_dir=str(folder / "logs"), skip_completed=False).run()
    (folder / "seconds").write_text(str(time.perf_counter() - start))
    rows = [row for path in (folder / "out").glob("*.jsonl") for row in path.read_bytes().splitlines()]
    return [int(json.loads(row)["id"]) for row in rows]


def juicer(source: Path, folder: Path, workers: int) -> list[int]:
    """document_minhash_deduplicator with its defaults (256 permutations, words between blanks), at our threshold."""
    from data_juicer.config import init_configs
    from data_juicer.core import DefaultExecutor

    config = {
        "project_name": "near_duplicates",
        "dataset_path": str(source),
        "export_path": str(folder / "out.jsonl"),
        "work_dir": str(folder / "work"),
        "np": workers,
        "use_cache": False,
        "process": [{"document_minhash_deduplicator": {"window_size": 5, "jaccard_threshold": THRESHOLD}}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    executor = DefaultExecutor(init_configs(["--config", str(folder / "config.json")]))
    start = time.perf_counter()
    executor.run()
    (folder / "seconds").write_text(str(time.perf_counter() - start))
    return [int(json.loads(line)["id"]) for line in (folder / "out.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    peer, source, folder, workers = sys.argv[1:]
    kept = {"datatrove": datatrove, "juicer": juicer}[peer](Path(source), Path(folder), int(workers))
    (Path(folder) / "kept").write_text("\n".join(map(str, kept)))
