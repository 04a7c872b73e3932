"""Tokens per second of an endpoint's engine on two CPU cores, beside transformers.generate on the same machine.

    python benchmarks/serving.py                            # builtin/smollm2-135m-instruct
    python benchmarks/serving.py --base builtin/tiny --new 64
    python benchmarks/serving.py --adapters 64              # many adapters on one base, beside one merged model
    SOLDIOM_API_KEY=… python benchmarks/serving.py --api http://127.0.0.1:8000 --model MODEL_ID
    SOLDIOM_API_KEY=… python benchmarks/serving.py --api http://127.0.0.1:8000 --model MODEL_ID --overhead --base NAME

Prompts are chat turns about passages of this project's documents, 20 to 120 tokens of them. Every answer has its own
length, temperature and seed, and is as long as it is asked to be. The same prompts go to `transformers.generate` one by
one and in static batches, which end with their longest answer; the best of several rounds counts on our side, and only
tokens that were asked for do. Times between tokens are taken where a caller receives them. With `--api` the same
requests go through a running API as streams of server-sent events instead, and there is no peer; with `--overhead` also
to a bare engine of the same base in this process, in turns: 32 at once, and short answers one by one. With `--adapters`
as many requests come at once as there are adapters (LoRA, rank 16, all linear layers), each for another one, in turns
with the same requests to one of them merged into the base; tokens are counted by the second, and by that of a core.
`--quick`: a few short answers of the small model.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

BASE, SMALL = "builtin/smollm2-135m-instruct", "builtin/tiny"
STREAMS = (1, 8, 32)
STATIC_BATCH = 16
LONG_PROMPT = 1500
IDLE_REQUESTS = 40


@dataclass(slots=True)
class Asked:
    """A prompt and how it is continued; with a temperature it has a seed."""

    text: str
    new_tokens: int
    temperature: float
    seed: int


@dataclass(slots=True)
class Times:
    """Of one round: tokens and seconds, and the seconds before each first and each further piece of text."""

    tokens: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    further: list[float] = field(default_factory=list)

    def row(self, name: str) -> dict[str, Any]:
        """For the table."""
        values = {"case": name, "tokens_per_second": round(self.tokens / self.seconds, 1)}
        if self.core_seconds:
            values["tokens_per_core_second"] = round(self.tokens / self.core_seconds, 1)
        for label, seconds in (("first", self.first), ("further", self.further)):
            if seconds:
                ordered = sorted(seconds)
                values[f"{label}_p50_ms"] = round(1000 * statistics.median(ordered), 1)
                values[f"{label}_p99_ms"] = round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1)
        return values


Stream = Callable[[Asked], Any]
"""Asked -> an asynchronous iterator of pieces of text, and last the number of tokens."""


def questions(count: int, new_tokens: int) -> list[Asked]:
    """Questions about passages of the documents, every other one greedy, answers of a quarter to twice `new_tokens`."""
    words = " ".join(path.read_text() for path in sorted(Path(__file__).parents[1].glob("docs/*.md"))).split()
    asked = []
    for number in range(count):
        passage = " ".join(words[97 * number : 97 * number + 15 + 29 * number % 60])
        length = max(4, new_tokens // 4 + (number * 37) % (7 * new_tokens // 4)) if count > 1 else new_tokens
        asked.append(Asked(f"What does this say? {passage}", length, 0.8 * (number % 2), number))
    return asked


async def ask(stream: Stream, asked: Asked, times: Times) -> None:
    """One answer, and when its pieces came."""
    before, seen = time.perf_counter(), False
    async with aclosing(stream(asked)) as pieces:
        async for piece in pieces:
            if isinstance(piece, int):
                times.tokens += piece
                continue
            now = time.perf_counter()
            (times.further if seen else times.first).append(now - before)
            before, seen = now, True


async def together(stream: Stream, asked: Sequence[Asked], late: Awaitable[None] | None = None) -> Times:
    """All at once; with something that runs beside them."""
    times, started, worked = Times(), time.perf_counter(), time.process_time()
    calls = [ask(stream, each, times) for each in asked]
    await asyncio.gather(*calls, *([late] if late else []))
    times.seconds, times.core_seconds = time.perf_counter() - started, time.process_time() - worked
    return times


async def measure(stream: Stream, new_tokens: int, rounds: int, words: int) -> list[dict[str, Any]]:
    """The rows of one side: streams at once, and eight of them while a long prompt arrives."""
    await together(stream, questions(2, 8))
    rows = []
    for streams in STREAMS:
        results = [await together(stream, questions(streams, new_tokens)) for _ in range(rounds)]
        rows.append(max(results, key=lambda each: each.tokens / each.seconds).row(f"{streams} at once"))
    long = Asked("word " * words, 4, 0.0, 0)

    async def arrive() -> None:
        await asyncio.sleep(0.5)
        await ask(stream, long, Times())

    rows.append(
        (await together(stream, questions(8, new_tokens), arrive())).row(f"8, a prompt of {words} words arrives")
    )
    return rows


def engine_stream(base: str, threads: int) -> tuple[Stream, Any, Any]:
    """(the engine's stream, another copy of the model, its tokenizer)."""
    from soldiom_ray.models.load import load_base
    from soldiom_ray.settings import load_settings

    generator = loaded(base)
    with load_base(None, load_settings(), base) as (plain, _):
        pass
    return stream_of(generator, threads), plain, generator


def loaded(base: str) -> Any:
    """The generator of a base, as a replica makes it."""
    from soldiom_ray.models.generate import Generator
    from soldiom_ray.models.load import load_base
    from soldiom_ray.settings import load_settings

    with load_base(None, load_settings(), base) as (model, tokenizer):
        return Generator.taking_over(model, tokenizer)


def stream_of(generator: Any, threads: int, adapters: Sequence[Any] = (None,), *, ends: bool = False) -> Stream:
    """Streams of an engine; a question is one for the adapter at its seed's place. With `ends` an answer may be shorter
    than it was asked to be."""
    from soldiom_ray.deploy.engine import TransformersEngine
    from soldiom_ray.models.decoding.answers import Generated, Options

    generator.ends = generator.ends if ends else frozenset()
    engine = TransformersEngine(generator, threads)
    gc.collect()
    gc.freeze()  # as a replica does

    async def stream(asked: Asked) -> Any:
        ids = generator.prompt_ids(generator.chat([{"role": "user", "content": asked.text}]))
        adapter = adapters[asked.seed % len(adapters)]
        options = Options(asked.new_tokens, asked.temperature, 1.0, asked.seed, adapter=adapter)
        async with aclosing(engine.stream(ids, options)) as pieces:
            async for piece in pieces:
                yield piece.completion_tokens if isinstance(piece, Generated) else piece

    return stream


def adapted_streams(base: str, count: int, threads: int) -> tuple[Stream, Stream, dict[str, Any]]:
    """(streams of a base with one adapter merged into it, of the base with `count` adapters, what an adapter takes)."""
    import torch
    from peft import LoraConfig, get_peft_model

    from soldiom_ray.models.generate import Generator
    from soldiom_ray.models.load import load_base
    from soldiom_ray.settings import load_settings

    torch.manual_seed(0)
    with load_base(None, load_settings(), base) as (model, tokenizer), TemporaryDirectory() as name:
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        tuned = get_peft_model(model, config)
        with torch.no_grad():
            for key, parameter in tuned.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(std=0.002)
        tuned.save_pretrained(name)
        merged = Generator.taking_over(tuned, tokenizer)
        with load_base(None, load_settings(), base) as (plain, _):
            shared = Generator.taking_over(plain, tokenizer)
        adapters, seconds = [], []
        for number in range(count):
            started = time.perf_counter()
            adapters.append(shared.adapter(str(number), Path(name)))
            seconds.append(time.perf_counter() - started)
    cost = {"megabytes": round(adapters[0].bytes / 1e6, 2), "load_p50_ms": round(1000 * statistics.median(seconds), 1)}
    cost["load_max_ms"] = round(1000 * max(seconds), 1)
    return stream_of(merged, threads), stream_of(shared, threads, adapters), cost


async def compare_adapters(base: str, count: int, new_tokens: int, rounds: int, threads: int) -> None:
    """Print both sides, measured in turns, the best round of each, and their ratio."""
    one, many, cost = adapted_streams(base, count, threads)
    asked = questions(count, new_tokens)
    results: dict[str, list[Times]] = {"one merged model": [], f"{count} adapters": []}
    for stream in (one, many):
        await together(stream, asked[:4])
    for _ in range(rounds):
        for stream, times in zip((one, many), results.values(), strict=True):
            times.append(await together(stream, asked))
    best = [max(times, key=lambda each: each.tokens / each.core_seconds) for times in results.values()]
    for name, times in zip(results, best, strict=True):
        print(json.dumps({"side": name, **times.row(f"{count} at once")}), flush=True)
    merged, adapted = (times.tokens / times.core_seconds for times in best)
    print(
        json.dumps({"side": "ratio by the second of a core", "ratio": round(adapted / merged, 3), **cost}), flush=True
    )


def api_stream(url: str, model: str) -> Stream:
    """Streams of a running API."""
    import httpx

    client = httpx.AsyncClient(headers={"Authorization": f"Bearer {os.environ['SOLDIOM_API_KEY']}"}, timeout=600)

    async def stream(asked: Asked) -> Any:
        parameters = {"max_tokens": asked.new_tokens, "temperature": asked.temperature, "seed": asked.seed}
        body = {"messages": [{"role": "user", "content": asked.text}], "parameters": parameters, "stream": True}
        async with client.stream("POST", f"{url}/api/inference/{model}", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                yield event["text"] if "text" in event else event["usage"]["completion_tokens"]

    return stream


async def compare_doors(api: Stream, engine: Stream, new_tokens: int, rounds: int) -> None:
    """Print both sides, measured in turns, and what the API costs: of 32 at once the ratio of tokens per second, the
    best round of each, and of one at a time the difference of the medians until the first text."""
    sides = {"bare engine": engine, "through the API": api}
    full: dict[str, list[Times]] = {name: [] for name in sides}
    idle = {name: Times(seconds=1.0) for name in sides}
    for stream in sides.values():
        await together(stream, questions(STREAMS[-1], 8))
    for _ in range(rounds):
        for name, stream in sides.items():
            full[name].append(await together(stream, questions(STREAMS[-1], new_tokens)))
    for asked in questions(IDLE_REQUESTS, 4):
        for name, stream in sides.items():
            await ask(stream, Asked(asked.text, 2, 0.0, 0), idle[name])
    best = {name: max(times, key=lambda each: each.tokens / each.seconds) for name, times in full.items()}
    for name in sides:
        row = {"side": name, **best[name].row(f"{STREAMS[-1]} at once"), "idle": idle[name].row("one at a time")}
        print(json.dumps(row), flush=True)
    bare, through = (each.tokens / each.seconds for each in best.values())
    waits = [1000 * statistics.median(idle[name].first) for name in sides]
    ratio = {"ratio": round(through / bare, 3), "idle_p50_more_ms": round(waits[1] - waits[0], 2)}
    print(json.dumps({"side": "what the API costs", "tokens": [each.tokens for each in best.values()]} | ratio))


def generate_plainly(model: Any, generator: Any, asked: Sequence[Asked], batch: int) -> Times:
    """transformers.generate in batches of equal options, padded on the left; each ends with its longest answer."""
    import torch

    tokenizer, times = generator.tokenizer, Times()
    texts = [generator.chat([{"role": "user", "content": each.text}]) for each in asked]
    tokenizer.padding_side = "left"
    started = time.perf_counter()
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True, add_special_tokens=False)
        length = max(each.new_tokens for each in part)
        torch.manual_seed(0)
        kind = {"do_sample": True, "temperature": 0.8, "top_k": 0} if batch > 1 else {"do_sample": False}
        model.generate(**inputs, min_new_tokens=length, max_new_tokens=length, **kind)
        times.tokens += sum(each.new_tokens for each in part)
    times.seconds = time.perf_counter() - started
    return times


def main() -> None:
    """Print the table as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--api")
    parser.add_argument("--model")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer, about")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--adapters", type=int, default=0, help="so many on one base, beside one merged model")
    parser.add_argument("--overhead", action="store_true", help="with --api: beside a bare engine of --base")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    base, new, rounds = (SMALL, 12, 1) if options.quick else (options.base, options.new, options.rounds)
    if options.api and not options.overhead:
        for row in asyncio.run(measure(api_stream(options.api, options.model), new, rounds, LONG_PROMPT)):
            print(json.dumps({"side": "ours, through the API", **row}), flush=True)
        return
    from soldiom_ray.deploy.rollout import TORCH_ENVIRONMENT

    os.environ.update(TORCH_ENVIRONMENT)  # read when torch is loaded
    import torch

    torch.set_num_threads(options.threads)
    if options.overhead:
        engine = stream_of(loaded(base), options.threads, ends=True)
        asyncio.run(compare_doors(api_stream(options.api, options.model), engine, new, rounds))
        return
    if options.adapters:
        asyncio.run(compare_adapters(base, options.adapters, new, rounds, options.threads))
        return
    stream, plain, generator = engine_stream(base, options.threads)
    words = min(LONG_PROMPT, generator.context // 4)
    for row in asyncio.run(measure(stream, new, rounds, words)):
        print(json.dumps({"side": "ours", **row}), flush=True)
    few = questions(STREAMS[-1], new)
    one = generate_plainly(plain, generator, questions(1, new), 1)
    several = [generate_plainly(plain, generator, few[:4], 1), generate_plainly(plain, generator, few, STATIC_BATCH)]
    names = ("1 at once", "one by one, mixed lengths", f"static batches of {STATIC_BATCH}, mixed lengths")
    for name, times in zip(names, (one, *several), strict=True):
        print(json.dumps({"side": "transformers.generate", **times.row(name)}), flush=True)


if __name__ == "__main__":
    main()
