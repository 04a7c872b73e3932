"""Two rules of the specialists on data that they have not seen: repair of code, and the test of a market for an edge.

    python benchmarks/specialist_rules.py --data ../shared/data            # a few minutes on one core
    python benchmarks/specialist_rules.py --data ../shared/data --quick

Repair: each task of MBPP gets one mutant that its tests kill. The rule sees the tests but the last; a repair counts
where the last passes, too. Trivial baseline: one of the possible changes, drawn at random. Markets: generated series of
daily returns without an edge (independent, Student's t with 4 degrees, drift) and with one (each return holds 0.12 of
the one before), 1,500 periods each: how often the verdict is "edge".
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np

from soldiom_ray.sandbox.run import run_program
from soldiom_ray.specialists.market import walk_forward
from soldiom_ray.specialists.mutants import make_mutants
from soldiom_ray.specialists.repair import LIMITS, repair_code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--series", type=int, default=100, help="generated series of each kind")
    parser.add_argument("--tasks", type=int, default=100, help="tasks of MBPP")
    parser.add_argument("--quick", action="store_true", help="fewer tasks and series")
    options = parser.parse_args()
    if series := min(options.series, 20 if options.quick else options.series):
        markets(series)
    tasks = options.data / "code_mbpp" / "tasks_511_974.jsonl"
    if not tasks.is_file():
        print(f"skipped: the tasks are not at {tasks}")
        return
    repairs(tasks, min(options.tasks, 15) if options.quick else options.tasks)


def markets(count: int) -> None:
    """How often an edge is told, without and with one."""
    print("| series | edge told | of |\n|---|---|---|")
    for name, share in (("no edge", 0.0), ("0.12 of the return before", 0.12), ("0.25 of the return before", 0.25)):
        told = sum(walk_forward({"prices": prices(share, seed)})["verdict"] == "edge" for seed in range(count))
        print(f"| {name} | {told} | {count} |", flush=True)


def prices(share: float, seed: int, periods: int = 1500) -> list[float]:
    """A series of prices whose returns hold a share of the one before."""
    draw = np.random.default_rng(seed)
    shocks = 0.0003 + 0.01 * draw.standard_t(4, periods) / np.sqrt(2)
    returns = np.zeros(periods)
    for period in range(periods):
        returns[period] = shocks[period] + share * (returns[period - 1] if period else 0)
    return [float(price) for price in 100 * np.exp(np.cumsum(returns))]


def repairs(path: Path, count: int) -> None:
    """The share of mutants that are repaired, by the tests that were shown and by the one that was not."""
    shown, held_out, trivial, tried, others = [], [], [], [], []
    draw = random.Random(11)
    for line in path.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        code, tests = task["code"].replace("\r", ""), task["test_list"]
        before = [task["test_setup_code"]] if task["test_setup_code"] else []
        known, every = "\n".join([*before, *tests[:-1]]), "\n".join([*before, *tests])
        made = make_mutants({"code": code, "tests": known, "most": 6, "seed": task["task_id"]})
        killed = [mutant for mutant in made["mutants"] if mutant["outcome"] == "killed"]
        if len(tests) < 2 or not killed or run_program(code, every, LIMITS).status != "passed":
            continue
        mutant = draw.choice(killed)["code"]
        answer = repair_code({"code": mutant, "tests": known})
        shown.append(answer["found"])
        held_out.append(answer["found"] and run_program(answer["code"], every, LIMITS).status == "passed")
        drawn = make_mutants({"code": mutant, "most": 1, "seed": task["task_id"]})["mutants"]
        trivial.append(bool(drawn) and run_program(drawn[0]["code"], every, LIMITS).status == "passed")
        tried.append(answer["tried"])
        others.append(bool(answer["others"]))
        if len(shown) == count:
            break
    differences = np.array(held_out, float) - np.array(trivial, float)
    draws = np.random.default_rng(1).choice(differences, (10_000, len(differences))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    print("| mutants | pass the tests shown | pass the test held out, too | one change at random | difference, 95 % |")
    print("|---|---|---|---|---|")
    print(
        f"| {len(shown)} | {np.mean(shown):.3f} | {np.mean(held_out):.3f} | {np.mean(trivial):.3f} |"
        f" {differences.mean():+.3f} [{low:+.3f}, {high:+.3f}] |"
    )
    print(f"changes run: median {np.median(tried):.0f}, at most {max(tried)}")
    unclear, right = np.array(others), np.array(held_out)
    for name, chosen in (("no other change passes, too", ~unclear), ("others pass, too", unclear)):
        if (repaired := chosen & np.array(shown)).any():
            print(f"{name}: {repaired.sum()} repairs, {right[repaired].mean():.3f} pass the test held out")


if __name__ == "__main__":
    main()
