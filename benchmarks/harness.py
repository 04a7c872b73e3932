"""Tasks of lm-evaluation-harness on a model of ours, through our engine.

    pip install "soldiom[harness]"
    python benchmarks/harness.py --model builtin/smollm2-135m-instruct --tasks arc_easy --limit 100
    python benchmarks/harness.py --model run-0123456789abcdef --tasks my_task --include FOLDER

`--include` names a folder of tasks of your own (YAML, with local data). The package's own tasks load their data from
the Hugging Face Hub. Models and runs are those of the home (SOLDIOM_HOME).
"""

import argparse
import json
from functools import partial

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.models.load import load_base, load_run
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a base model, or a run's id")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--include", help="a folder of further tasks")
    parser.add_argument("--limit", type=int, help="of each task at most so many samples")
    parser.add_argument("--few-shot", type=int)
    parser.add_argument("--chat", action="store_true", help="ask by the chat template")
    options = parser.parse_args()
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        from soldiom_ray.evaluate.harness import EngineModel
    except ImportError:
        print('skipped: lm-eval is not installed; pip install "soldiom[harness]"')
        return
    settings = load_settings()
    artifacts = Artifacts(open_storage(settings))
    is_run = options.model.startswith("run-")
    load = (
        partial(load_run, artifacts, settings, artifacts.get(options.model))
        if is_run
        else partial(load_base, artifacts, settings, options.model)
    )
    model = EngineModel(load)
    try:
        results = simple_evaluate(
            model=model,
            tasks=options.tasks,
            task_manager=TaskManager(include_path=options.include),
            limit=options.limit,
            num_fewshot=options.few_shot,
            apply_chat_template=options.chat,
        )
    finally:
        model.close()
    print(json.dumps(results["results"], indent=2, default=str))


if __name__ == "__main__":
    main()
