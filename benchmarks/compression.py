"""Tokens per second, memory, file size and loss of a model in bfloat16, int8 and int4, in the engine of endpoints.

    python benchmarks/compression.py                          # builtin/smollm2-135m-instruct, two threads
    python benchmarks/compression.py --base builtin/tiny --threads 1 --quick

The formats answer in turns, one answer at a time, without what reading the prompt takes; the best of several rounds
counts. Seconds are those of the clock and, with one thread, those of the core, which other programs disturb less. The
loss is that of the project's documents, in blocks of 512 tokens.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PROMPT = "The answer to the question is that"


def main() -> None:
    """Print one JSON object for each format."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--base", default="builtin/smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tokens")
    options = parser.parse_args()

    import torch

    from soldiom_ray.models.generate import Generator
    from soldiom_ray.models.load import load_base, load_model
    from soldiom_ray.models.quantization import save_quantized
    from soldiom_ray.settings import load_settings

    torch.set_num_threads(options.threads)
    tokens, rounds = (8, 2) if options.quick else (48, options.rounds)
    rows: dict[str, dict[str, Any]] = {}
    generators = {}
    with load_base(None, load_settings(), options.base) as (model, tokenizer), TemporaryDirectory() as name:
        loaded = {"bfloat16": (model, tokenizer)}
        for bits in (8, 4):
            folder = Path(name) / str(bits)
            save_quantized(model, tokenizer, folder, bits)
            loaded[f"int{bits}"] = load_model(folder)
            rows[f"int{bits}"] = {"file_mb": round((folder / "model.safetensors").stat().st_size / 1e6, 1)}
        rows["bfloat16"] = {"file_mb": round(sum(each.nbytes for each in model.parameters()) / 1e6, 1)}
        blocks = 1 if options.quick else 8
        for each, pair in loaded.items():
            rows[each]["loss"] = round(loss(*pair, blocks), 4)
            generators[each] = Generator.taking_over(*pair)
    clock = {each: float("inf") for each in generators}
    core = dict(clock)
    for _ in range(rounds):
        for each, generator in generators.items():
            generator.ends = frozenset()
            first, whole = (seconds(generator, count) for count in (1, tokens))
            clock[each] = min(clock[each], (whole[0] - first[0]) / (tokens - 1))
            core[each] = min(core[each], (whole[1] - first[1]) / (tokens - 1))
    for each, generator in generators.items():
        forward: Any = generator.forward
        rows[each] |= {
            "memory_mb": round(forward.weight_bytes / 1e6, 1),
            "tokens_per_second": round(1 / clock[each], 1),
        }
        rows[each]["tokens_per_core_second"] = round(1 / core[each], 1)
        print(json.dumps({"format": each, "threads": options.threads, **rows[each]}))


def seconds(generator: Any, tokens: int) -> tuple[float, float]:
    """Of an answer: by the clock, and of all cores."""
    started, worked = time.perf_counter(), time.process_time()
    generator.generate([PROMPT], max_new_tokens=tokens)
    return time.perf_counter() - started, time.process_time() - worked


def loss(model: Any, tokenizer: Any, blocks: int) -> float:
    """Nats per token of the project's documents."""
    import torch

    text = "\n".join(path.read_text() for path in sorted(Path(__file__).parents[1].glob("docs/*.md")))
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"][: 512 * blocks]).view(blocks, 512)
    with torch.inference_mode():
        return float(sum(model(row[None], labels=row[None]).loss for row in ids)) / blocks


if __name__ == "__main__":
    main()
