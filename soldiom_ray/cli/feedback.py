"""`soldiom feedback`: what users think of answers, and what models may learn from."""

import json as json_text
from typing import Annotated, Any

import typer

from soldiom_ray.cli.output import Json, print_items, print_json, say
from soldiom_ray.errors import InputError
from soldiom_ray.settings import HOME_TENANT, load_settings

feedback_app = typer.Typer(help="What users think of answers: list, review, accept, reject.", no_args_is_help=True)
FeedbackId = Annotated[str, typer.Argument(metavar="FEEDBACK", help="Id of a feedback.")]
Model = Annotated[str | None, typer.Option(help="A model's id or family/name: all its versions.")]
Correction = Annotated[str, typer.Option(help="What the answer should have been, in place of the user's correction.")]


def add_commands(app: typer.Typer) -> None:
    """Put this module's commands under the program."""
    app.add_typer(feedback_app, name="feedback")
    app.command()(retrain)
    app.command()(watch)


@feedback_app.command("list")
def list_feedback(
    model: Model = None,
    status: Annotated[str | None, typer.Option(help="new, accepted or rejected.")] = None,
    json: Json = False,
) -> None:
    """List feedback with its questions and answers, newest first."""
    items = _list(model, status)
    if not json:
        items = [item | {"question": _asked(item)[-80:], "answer": item["answer"][:80]} for item in items]
    columns = ["id", "rating", "status", "user_id", "question", "answer", "correction", "reason"]
    print_items(items, columns, json, "No feedback yet.")


@feedback_app.command("review")
def review(model: Model = None) -> None:
    """Go through new feedback, the oldest first, and accept it, correct and accept it, reject it or leave it."""
    for item in reversed(_list(model, "new")):
        say(f"\n{item['id']}  {item['rating']}  from {item['user_id']}  {item['reason']}")
        say(f"question: {_asked(item)}")
        say(f"answer: {item['answer']}")
        say(f"correction: {item['correction'] or '-'}")
        choice = typer.prompt("[a]ccept, [e]dit, [r]eject, [s]kip, [q]uit", default="s").strip().lower()[:1]
        if choice == "q":
            return
        try:
            if choice in ("a", "e"):
                _decide(item["id"], True, typer.prompt("correction") if choice == "e" else "")
            elif choice == "r":
                _decide(item["id"], False)
        except InputError as error:
            say(str(error))


@feedback_app.command("accept")
def accept(feedback_id: FeedbackId, correction: Correction = "", json: Json = False) -> None:
    """Let a model learn from a feedback: the better answer becomes an example."""
    item = _decide(feedback_id, True, correction)
    print_json(item) if json else say(f"Feedback {feedback_id} is accepted: example {item['input_id']}.")


@feedback_app.command("reject")
def reject(feedback_id: FeedbackId, json: Json = False) -> None:
    """Let no model learn from a feedback, also from one that was accepted before."""
    item = _decide(feedback_id, False)
    print_json(item) if json else say(f"Feedback {feedback_id} is rejected.")


def retrain(
    model: Annotated[str, typer.Argument(help="A model's id or family/name: the version that is deployed.")],
    from_feedback: Annotated[
        bool, typer.Option("--from-feedback", help="Learn from accepted feedback, beside the former data.")
    ] = False,
    method: Annotated[
        str, typer.Option(help="sft: corrections as examples; dpo: rather the correction than what it corrects.")
    ] = "sft",
    json: Json = False,
) -> None:
    """Make the next version of a model: trained as before, on its former data and on accepted feedback; promoted and
    served if it beats the version before. Otherwise that one goes on."""
    from soldiom_ray.cli.jobs import run_job, stage_of
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.domains.recipes import as_dict
    from soldiom_ray.domains.retraining import RETRAIN, retraining

    if not from_feedback:
        raise InputError("It is not said what to learn from.", remedy="add --from-feedback")
    if method not in ("sft", "dpo"):
        raise InputError(f"--method is {method!r}; known: sft, dpo", remedy="name one of these")
    with open_session(load_settings()) as session:
        content = as_dict(retraining(session, model, HOME_TENANT, "dpo" if method == "dpo" else "sft"))
        owner = models.get_served(session, model, HOME_TENANT).owner
    job = run_job(content, RETRAIN, owner=owner)
    result, version = job["result"], stage_of(job, "register")["details"]
    gate, served = version["gate"], (result["endpoint"] or {}).get("deployed", result["endpoint"] is not None)
    made = {"id": result["model_id"], "job": job["id"], "promoted": version["promoted"], "served": served, "gate": gate}
    print_json(made) if json else say(f"Version {version['version']} ({made['id']}): {gate.get('verdict', '')}")


def watch(json: Json = False) -> None:
    """Look once at the versions that are watched after a retraining, as the API does by itself, and list them."""
    from soldiom_ray.db import watches
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.monitor.watch import look

    settings = load_settings()
    look(settings)
    with open_session(settings) as session:
        items = [watches.as_dict(row) for row in watches.list_watches(session, HOME_TENANT)]
    columns = ["model_id", "previous_id", "status", "reason", "started_at", "ends_at", "looked_at"]
    print_items(items, columns, json, "No version is watched.")


def _list(model: str | None, status: str | None) -> list[dict[str, Any]]:
    from soldiom_ray.db import feedback, models
    from soldiom_ray.db.engine import open_session

    known = (feedback.NEW, feedback.ACCEPTED, feedback.REJECTED)
    if status is not None and status not in known:
        raise InputError(f"--status is {status!r}; known: {', '.join(known)}", remedy="name one of these")
    settings = load_settings()
    with open_session(settings) as session:
        ids = None
        if model is not None:
            ids = [row.id for row in feedback.versions_of(session, models.get(session, model, HOME_TENANT))]
        items: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            chosen = {"model_ids": ids, "status": status, "cursor": cursor, "limit": 200}
            page, cursor = feedback.list_as_dicts(session, HOME_TENANT, settings.encryption_keys, **chosen)
            items += page
        return items


def _decide(feedback_id: str, accepts: bool, correction: str = "") -> dict[str, Any]:
    from soldiom_ray.db import audit, feedback
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.records import COMMAND_LINE

    settings = load_settings()
    key = settings.encryption_keys
    with open_session(settings) as session:
        if accepts:
            row = feedback.accept(
                session,
                feedback_id,
                HOME_TENANT,
                reviewer=COMMAND_LINE,
                correction=correction,
                encryption_keys=key,
            )
        else:
            row = feedback.reject(session, feedback_id, HOME_TENANT, reviewer=COMMAND_LINE)
        audit.append(session, COMMAND_LINE, f"feedback {'accept' if accepts else 'reject'}", row.id, "allow")
        return feedback.as_dict(session, row, key)


def _asked(item: dict[str, Any]) -> str:
    """The question as a text: of a conversation its last turn."""
    question = item["question"]
    if "messages" in question:
        last = question["messages"][-1]
        return str(last.get("content") or json_text.dumps(last))
    return str(question.get("input", ""))
