"""What a schema costs: tokens per second with and without one, and the time before the first token.

    python benchmarks/response_format.py                      # builtin/smollm2-135m-instruct
    python benchmarks/response_format.py --base builtin/tiny --new 128

The same prompts, options and seeds with and without a JSON Schema, one after the other in each round; answers have
other words and lengths then, so tokens are compared, of wall time and of the cores' own. The first token of a schema
that was not compiled before, and of one that was, is beside the free answer's.
"""

import argparse
import asyncio
import json
import statistics
import time
from contextlib import aclosing
from typing import Any

STREAMS = (1, 8)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "summary": {"type": "string"},
        "topics": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["report", "letter", "contract", "other"]},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
        "author": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "email": {"type": "string", "format": "email"}},
            "required": ["name", "email"],
        },
    },
    "required": ["title", "summary", "topics", "kind", "year", "author"],
}


def bound(title: str) -> dict[str, Any]:
    """Parameters with a schema that is another one for each title."""
    schema = {"name": "document", "schema": SCHEMA | {"title": title}}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def request(number: int, new_tokens: int, parameters: dict[str, Any]) -> dict[str, Any]:
    """A question, every other one greedy."""
    text = f"Describe document {number}: minutes of the meeting about the lease of house {number}, as JSON."
    options = {"max_tokens": new_tokens, "temperature": 0.8 * (number % 2), "seed": number}
    return {"inputs": [text], "parameters": options | parameters}


def together(endpoint: Any, streams: int, new_tokens: int, parameters: dict[str, Any]) -> tuple[int, float, float]:
    """(tokens, seconds, seconds of the cores) of answers that are asked at once."""

    async def ask() -> list[dict[str, Any]]:
        calls = [endpoint.generate(request(number, new_tokens, parameters)) for number in range(streams)]
        return [answer["outputs"][0] for answer in await asyncio.gather(*calls)]

    began, work = time.perf_counter(), time.process_time()
    outputs = asyncio.run(ask())
    tokens = sum(output["completion_tokens"] for output in outputs)
    return tokens, time.perf_counter() - began, time.process_time() - work


def first_token(endpoint: Any, parameters: dict[str, Any]) -> float:
    """Milliseconds until the first piece of text."""

    async def ask() -> float:
        began = time.perf_counter()
        async with aclosing(endpoint.stream(request(0, 80, parameters))) as parts:
            async for _ in parts:
                return 1000 * (time.perf_counter() - began)
        raise SystemExit("no text came")

    return asyncio.run(ask())


def main() -> None:
    """Print the table, a line of JSON for each case."""
    from soldiom_ray.deploy.app import ModelEndpoint

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="builtin/smollm2-135m-instruct")
    parser.add_argument("--new", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    endpoint = ModelEndpoint("benchmark", None, given.base, given.threads, "1")
    together(endpoint, 2, 16, {})
    delays: dict[str, list[float]] = {"free": [], "new schema": [], "schema again": []}
    for number in range(given.rounds + 1):
        delays["free"].append(first_token(endpoint, {}))
        delays["new schema"].append(first_token(endpoint, bound(str(number))))
        delays["schema again"].append(first_token(endpoint, bound(str(number))))
    for name, values in delays.items():  # the first of all also loads libraries
        row = {"first_token_ms": round(statistics.median(values[1:]), 1), "very_first_ms": round(values[0], 1)}
        print(json.dumps({"case": name} | row))
    for streams in STREAMS:
        sums = {"free": [0.0, 0.0, 0.0], "schema": [0.0, 0.0, 0.0]}
        for _ in range(given.rounds):
            for name, parameters in (("free", {}), ("schema", bound("again"))):
                sums[name] = list(
                    map(sum, zip(sums[name], together(endpoint, streams, given.new, parameters), strict=True))
                )
        rates = {name: (tokens / seconds, tokens / work) for name, (tokens, seconds, work) in sums.items()}
        for name, (wall, cores) in rates.items():
            row = {"case": f"{streams} at once, {name}", "tokens_per_second": round(wall, 1)}
            print(json.dumps(row | {"tokens_per_core_second": round(cores, 1)}))
        ratios = [
            round(bound_rate / free_rate, 2)
            for bound_rate, free_rate in zip(rates["schema"], rates["free"], strict=True)
        ]
        print(
            json.dumps({"case": f"{streams} at once, schema / free", "ratio": ratios[0], "ratio_of_cores": ratios[1]})
        )


if __name__ == "__main__":
    main()
