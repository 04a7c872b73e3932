"""Commands that look at scores: compare, report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, note, print_json, print_table, say
from soldiom_ray.errors import InputError, NotFoundError
from soldiom_ray.settings import HOME_TENANT, load_settings

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or a model's id or family/name.")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    for command in (compare, report):
        app.command()(command)


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [PROMPT]",
            help="Runs or models. The last one may be a prompt: what holds a space, which no name does.",
        ),
    ],
    prompt: Annotated[str | None, typer.Option(help="A prompt for two models, also one of a single word.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Prompts for two models: a line each, or JSON lines with `input`.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer at most; unset: 128.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0: always the likeliest token.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes sampled answers repeatable.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue prompts as they are, without the chat template.")
    ] = False,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Without a prompt: confidence of the intervals.")
    ] = 0.95,
    json: Json = False,
) -> None:
    """With a prompt: ask two models the same, each the way it was trained, and show their answers side by side. A model
    that no endpoint answers for is loaded into this process; so is a base, by its name.

    Without one: compare scored runs on the held-out samples that all of them were scored on, each against the first,
    paired."""
    prompts = _prompts(names, prompt, file)
    if not prompts:
        _compare_scores(names, confidence, json)
        return
    from soldiom_ray.cli.side_by_side import ask_both, show
    from soldiom_ray.models.answerer import Asking

    sides = ask_both(names, prompts, Asking(max_tokens, temperature, seed, raw))
    if json:
        print_json({"prompts": prompts, "models": [side.as_dict() for side in sides]})
    else:
        show(sides, prompts)
    if any("error" in answer for side in sides for answer in side.answers):
        raise typer.Exit(1)


def _prompts(names: list[str], prompt: str | None, file: Path | None) -> list[str]:
    """The prompts that two models are to be asked, taken out of the names; none where scores are compared. InputError
    for prompts of more than one kind, and for another number of models than two."""
    from soldiom_ray.cli.inputs import read_inputs

    last = len(names) > 1 and any(character.isspace() for character in names[-1].strip())
    given = [names.pop()] if last else []
    given += [prompt] if prompt is not None else []
    if (given and file) or len(given) > 1:
        raise InputError("Prompts are given in more than one way.", remedy="give one prompt, or a --file of them")
    prompts = read_inputs(file) if file else given
    if prompts and len(names) != 2:
        raise InputError(
            f"A prompt is for two models; {len(names)} are named.",
            remedy='for example soldiom compare A B "a question"',
        )
    return prompts


def _compare_scores(runs: list[str], confidence: float, json: bool) -> None:
    from soldiom_ray.domains.metrics import title_of
    from soldiom_ray.metrics.side_by_side import compare_runs

    if len(set(runs)) < 2:
        raise InputError("Only one run is named.", remedy="name two or more: soldiom compare RUN RUN")
    try:
        stored = {name: _scores(name) for name in dict.fromkeys(runs)}
    except NotFoundError as error:
        raise NotFoundError(error.what, remedy=f"{error.remedy}; a prompt of one word is given with --prompt") from None
    result = compare_runs(stored, confidence=confidence)
    if json:
        print_json(result)
        return
    rows = []
    for metric, values in result["metrics"].items():
        for run, interval in values.items():
            difference = result["differences"].get(run, {}).get(metric)
            rows.append(
                {
                    "metric": title_of(metric),
                    "run": run,
                    "value": f"{interval['mean']:.4f} {_interval(interval)}",
                    "difference": f"{difference['mean']:+.4f} {_interval(difference)}" if difference else "",
                    "p": f"{difference['corrected_p']:.3g}" if difference else "",
                }
            )
    samples = ", ".join(f"{count} {part}" for part, count in result["samples"].items())
    print_table(rows, ["metric", "run", "value", "difference", "p"], f"Held-out samples in common: {samples}")
    say(f"Differences are from {result['runs'][0]}, {100 * confidence:g} % intervals; p is corrected for the metrics.")


def report(
    run: Run,
    output: Annotated[
        Path | None, typer.Option(help="File to write: .html or .md; default: report-RUN.html in this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the report on a run's newest evaluation: one HTML page with its pictures, or Markdown."""
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.storage import open_storage

    row = _evaluation(run)
    path = output or Path(f"report-{row['run_artifact']}.html")
    if path.suffix not in (".html", ".md"):
        raise InputError(f"{str(path)!r} ends in neither .html nor .md.", remedy="name the file so")
    artifacts = Artifacts(open_storage(load_settings()))
    manifest = artifacts.get(row["scores_artifact"])
    if not any(entry.name == f"report{path.suffix}" for entry in manifest.files):
        raise NotFoundError(
            f"{manifest.id} was written before there were reports of this kind.",
            remedy=f"evaluate the run again: soldiom evaluate {run}",
        )
    path.write_bytes(artifacts.read(manifest, f"report{path.suffix}"))
    for entry in manifest.files:
        if path.suffix == ".md" and entry.name.startswith("pictures/"):
            target = path.parent / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(artifacts.read(manifest, entry.name))
    note("It shows held-out texts and answers: pass it on as you would pass on the data.")
    print_json({"id": manifest.id, "path": str(path)}) if json else say(f"Written: {path}")


def _interval(values: dict[str, Any]) -> str:
    return f"[{values['low']:.4f}, {values['high']:.4f}]"


def _evaluation(name: str) -> dict[str, Any]:
    """The newest evaluation of a run, by the run or the model made of it."""
    from soldiom_ray.db import evaluations
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.domains.names import find_run

    with open_session(load_settings()) as session:
        return evaluations.as_dict(evaluations.of_run(session, find_run(session, name, HOME_TENANT), HOME_TENANT))


def _scores(name: str) -> dict[str, Any]:
    """The content of `scores.json` of that evaluation."""
    import json

    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.storage import open_storage

    artifacts = Artifacts(open_storage(load_settings()))
    content: dict[str, Any] = json.loads(
        artifacts.read(artifacts.get(_evaluation(name)["scores_artifact"]), "scores.json")
    )
    return content
