"""What is stored of one user of a tenant (`user_id` of inputs, questions and feedback, or the id that owns what a key
or a login has made): handed out, and erased.

Artifacts never change, so erasing removes every artifact that holds a text of the user: documents that were collected
from an input, and the datasets, indexes with their vectors, token files and scores made of them. They can be made anew
from the sources that remain. Weights stay: which models learnt from the user is told, for a person to decide. So do
models that the user owned, as the tenant's, and what the user shared; jobs, and datasets that nobody else has, go.
"""

import json
import zipfile
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import IO, Any, TypeVar

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session

from soldiom_ray import batches, vectors
from soldiom_ray.artifacts import Artifacts, kind_of
from soldiom_ray.db import answers, audit, datasets, evaluations, feedback, inputs, jobs, locks, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.parts import in_parts
from soldiom_ray.db.tables import Answer, CollectedDocument, Dataset, Evaluation, Feedback, Job, Model, UserInput
from soldiom_ray.errors import NotFoundError
from soldiom_ray.garbage import hashes_of, raw_references
from soldiom_ray.records import TENANTS_OWN, now
from soldiom_ray.sealing import unseal_text
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, log_key, open_storage, raw_key

STORED = ("inputs", "answers", "feedback", "batches", "jobs", "datasets", "evaluations", "own_models")
"""What is stored of a user, by its name in an export."""
TEXT_KINDS = ("documents", "dataset", "index", "tokens", "scores")
"""Kinds of artifacts that hold texts of documents."""
MANY_INPUTS = 1000
"""Of more inputs than so many, documents are not looked for one by one."""
PARSED = "kept/parsed"
"""Where texts of parsed files are cached, under names that do not tell whose they are."""


def export_user(settings: Settings, tenant: str, user_id: str, file: IO[bytes]) -> dict[str, int]:
    """Write what is stored of a user as a ZIP archive: `user.json` with inputs, answers, feedback, batches and the
    models that learnt from them, jobs, datasets, evaluations and models that the user owns, and the files of uploads
    and batches; returns how many of each. What others asked and were answered is left out where the user rated it.
    NotFoundError where nothing is stored."""
    storage, key = open_storage(settings), settings.encryption_keys
    with open_session(settings, reach="all") as session, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        rows = _inputs(session, tenant, user_id)
        said = _feedback(session, tenant, user_id)
        others = _about_others(session, said, user_id)
        record: dict[str, Any] = {"user_id": user_id, "inputs": []}
        for row in rows:
            shown = inputs.as_dict(row)
            if row.input_type == "file":
                name = PurePosixPath(str((row.metadata_ or {}).get("filename") or "file")).name
                shown["file"] = f"inputs/{row.id}/{name}"
                with archive.open(shown["file"], "w", force_zip64=True) as target:
                    for chunk in storage.read_stream(row.content):
                        target.write(chunk)
            elif row.id not in others:
                shown["content"] = unseal_text(row.content, f"user_inputs/{row.id}", key)
            record["inputs"].append(shown)
        record["answers"] = [_answer(row, settings) for row in _answers(session, tenant, user_id)]
        given = [feedback.as_dict(session, row, key) for row in said]
        record["feedback"] = [item if item["id"] not in others else _without_exchange(item) for item in given]
        record |= {
            "batches": [_export_batch(job, storage, archive) for job in batches.of_user(session, tenant, user_id)],
            "jobs": [jobs.as_dict(row) for row in _owned(session, Job, tenant, user_id)],
            "datasets": [datasets.as_dict(row) for row in _owned(session, Dataset, tenant, user_id)],
            "evaluations": [evaluations.as_dict(row) for row in _owned(session, Evaluation, tenant, user_id)],
            "own_models": [models.as_dict(row, with_card=True) for row in _owned(session, Model, tenant, user_id)],
        }
        if not any(record[name] for name in STORED):
            raise NotFoundError(f"Nothing is stored of user {user_id[:100]!r}.")
        affected = _affected(Artifacts(storage), session, [row.id for row in rows])
        record["models"] = _learnt(session, tenant, affected, user_id)
        archive.writestr("user.json", json.dumps(record, ensure_ascii=False, indent=1))
        return {name: len(record[name]) for name in (*STORED, "models")}


def erase_user(settings: Settings, tenant: str, user_id: str, actor: str) -> dict[str, Any]:
    """Erase what is stored of a user: rows, uploaded bytes that nobody else uploaded, and every artifact that holds one
    of the user's texts, with its vectors. Returns counts, the `artifacts` that were removed and the `models` that
    learnt from them, which stay. Called again after a failure it goes on. NotFoundError where nothing is stored,
    ConflictError while jobs of the tenant run: what they are making may hold the user's texts."""
    artifacts, began = Artifacts(open_storage(settings)), now()
    with open_session(settings, reach="all") as session:
        rows = _inputs(session, tenant, user_id)
        rows += _examples_about(session, tenant, user_id)
        counts = {
            "inputs": len({row.id for row in rows}),
            "answers": len(_answers(session, tenant, user_id)),
            "feedback": len(_feedback(session, tenant, user_id)),
            "batches": len(batches.of_user(session, tenant, user_id)),
            "jobs": len(_owned(session, Job, tenant, user_id)),
            "datasets": len(_owned(session, Dataset, tenant, user_id)),
            "evaluations": len(_owned(session, Evaluation, tenant, user_id)),
            "own_models": len(_owned(session, Model, tenant, user_id)),
        }
        if not any(counts.values()):
            raise NotFoundError(f"Nothing is stored of user {user_id[:100]!r}.")
        _refuse_during_jobs(session, tenant, began)
        ids = [row.id for row in rows]
        affected = _affected(artifacts, session, ids)
        learnt = _learnt(session, tenant, affected, user_id)
        texts = {name for name in affected if kind_of(name) in TEXT_KINDS}
        removed = sorted(texts | _nobody_elses(artifacts, session, tenant, user_id), key=_from_below)
        logs = [log_key(row.id) for row in _owned(session, Job, tenant, user_id)]
        raw = {row.sha256 for row in rows} | _raw_of(artifacts, affected, set(ids))
    raw -= raw_references(artifacts, without=removed)
    # From below, bytes before the documents that name them, rows last: what was interrupted finds again what is left.
    _remove_bytes(settings, artifacts.storage, raw, ids, removed)
    for name in removed:
        if kind_of(name) == "index":
            vectors.delete_collections(settings, name)
        artifacts.delete(name)
    artifacts.storage.remove(PARSED)
    for name in logs:
        artifacts.storage.remove(name)
    with open_session(settings, reach="all") as session:
        _refuse_during_jobs(session, tenant, began)  # the rows stay, so that another call finds what was made meanwhile
        batches.erase(session, artifacts.storage, batches.of_user(session, tenant, user_id))
        _remove_rows(session, tenant, user_id, ids, removed)
        details = counts | {"artifacts": len(removed), "models": [model["id"] for model in learnt][:100]}
        audit.append(session, actor, "erase user", user_id, "allow", details, tenant)
    return {"user_id": user_id, **counts, "artifacts": sorted(removed), "models": learnt}


def _refuse_during_jobs(session: Session, tenant: str, since: datetime) -> None:
    why, remedy = "what they make may hold texts of the user", "erase the user once they have ended"
    jobs.refuse_during(session, tenant, since, why=why, remedy=remedy)


def _from_below(artifact: str) -> tuple[int, str]:
    """The order of removal: what was made of others before those."""
    return -TEXT_KINDS.index(kind_of(artifact)), artifact


def _remove_bytes(
    settings: Settings, storage: Storage, raw: set[str], input_ids: Sequence[str], removed: Sequence[str]
) -> None:
    """Remove raw bytes that, besides these inputs and artifacts, nothing refers to."""
    own, gone = set(input_ids), set(removed)
    for sha256 in sorted(raw):
        with open_session(settings, reach="all") as session:
            locks.hold(session, locks.of_content(raw_key(sha256)))
            if not _is_needed(session, sha256, own, gone):
                storage.remove(raw_key(sha256))


def _is_needed(session: Session, sha256: str, input_ids: Collection[str], removed: Collection[str]) -> bool:
    """Whether an input or a collected document of anybody, other than these, refers to raw bytes."""
    inputs = select(UserInput.id).where(UserInput.sha256 == sha256)
    documents = select(CollectedDocument.artifact_id).where(CollectedDocument.sha256 == sha256).distinct()
    pairs = (inputs, input_ids), (documents, removed)
    return any(name not in these for query, these in pairs for name in session.scalars(query))


def _inputs(session: Session, tenant: str, user_id: str) -> list[UserInput]:
    query = select(UserInput).where(UserInput.tenant == tenant, _is_of(UserInput, user_id))
    return list(session.scalars(query.order_by(UserInput.id)))


def _is_of(table: type[UserInput] | type[Answer], user_id: str) -> ColumnElement[bool]:
    return or_(table.user_id == user_id, table.owner == user_id)


Owned = TypeVar("Owned", Job, Dataset, Evaluation, Model)


def _owned(session: Session, table: type[Owned], tenant: str, user_id: str) -> list[Owned]:
    """What the user has made; nothing for an empty id, which is the tenant's."""
    query = select(table).where(table.tenant == tenant, table.owner == user_id, table.owner.not_in(TENANTS_OWN))
    return list(session.scalars(query.order_by(table.id)))


def _nobody_elses(artifacts: Artifacts, session: Session, tenant: str, user_id: str) -> set[str]:
    """Artifacts of datasets that the user owns and does not share, which nobody else has, with their token files."""
    private = {row.artifact_id for row in _owned(session, Dataset, tenant, user_id) if not row.shared}
    elsewhere = or_(Dataset.tenant != tenant, Dataset.owner != user_id)
    for names in in_parts(sorted(private)):
        others = select(Dataset.artifact_id).where(Dataset.artifact_id.in_(names), elsewhere)
        private -= set(session.scalars(others))
    return (
        private | {each.id for each in artifacts.all_of("tokens") if private & set(each.parents)} if private else set()
    )


def _end_ownership(session: Session, tenant: str, user_id: str) -> None:
    """Remove what the user alone had, and leave the rest to the tenant: shared things and models."""
    for job in _owned(session, Job, tenant, user_id):
        session.delete(job)
    for dataset in _owned(session, Dataset, tenant, user_id):
        same = Dataset.tenant == tenant, Dataset.owner == "", Dataset.artifact_id == dataset.artifact_id
        if not dataset.shared or session.scalars(select(Dataset.id).where(*same)).first() is not None:
            session.delete(dataset)
        dataset.owner = ""
    for evaluation in _owned(session, Evaluation, tenant, user_id):
        if evaluation.model_id is None:
            session.delete(evaluation)
        evaluation.owner = ""
    for model in _owned(session, Model, tenant, user_id):
        model.version = models.next_version(session, family=model.family, name=model.name, tenant=tenant)
        model.owner = ""
        session.flush()
    session.flush()


def _answers(session: Session, tenant: str, user_id: str) -> list[Answer]:
    query = select(Answer).where(Answer.tenant == tenant, _is_of(Answer, user_id))
    return list(session.scalars(query.order_by(Answer.id)))


def _feedback(session: Session, tenant: str, user_id: str) -> list[Feedback]:
    """What the user said of answers, and what others said of answers to the user."""
    own = select(Answer.id).where(Answer.tenant == tenant, _is_of(Answer, user_id))
    about = or_(Feedback.user_id == user_id, Feedback.answer_id.in_(own))
    return list(session.scalars(select(Feedback).where(Feedback.tenant == tenant, about).order_by(Feedback.id)))


def _about_others(session: Session, rows: Sequence[Feedback], user_id: str) -> set[str]:
    """Ids of feedback on answers to others, and of the examples made of it, which hold what those asked."""
    own: set[str] = set()
    for ids in in_parts(sorted({row.answer_id for row in rows})):
        own |= set(session.scalars(select(Answer.id).where(Answer.id.in_(ids), _is_of(Answer, user_id))))
    return {name for row in rows if row.answer_id not in own for name in (row.id, row.input_id) if name}


def _without_exchange(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in ("question", "answer")}


def _examples_about(session: Session, tenant: str, user_id: str) -> list[UserInput]:
    """Examples of others' feedback that hold the user's questions."""
    ids = [row.input_id for row in _feedback(session, tenant, user_id) if row.input_id and row.user_id != user_id]
    return [row for part in in_parts(ids) for row in session.scalars(select(UserInput).where(UserInput.id.in_(part)))]


def _collected_from(session: Session, input_ids: Sequence[str]) -> set[str]:
    """The documents artifacts that hold something of these inputs: their documents' addresses are `input:ID` and
    `input:ID#part`. Of many inputs all such addresses are looked through, else the index finds each."""
    url, names = CollectedDocument.url, select(CollectedDocument.artifact_id)
    if len(input_ids) > MANY_INPUTS:
        ids = set(input_ids)
        rows = session.execute(select(CollectedDocument.artifact_id, url).where(url.like("input:%")))
        return {str(name) for name, text in rows if text.partition("#")[0].removeprefix("input:") in ids}
    return {
        str(name)
        for each in input_ids
        for name in session.scalars(names.where(or_(url == f"input:{each}", url.like(f"input:{each}#%"))).distinct())
    }


def _affected(artifacts: Artifacts, session: Session, input_ids: Sequence[str]) -> list[str]:
    """The artifacts that were made of documents from these inputs, down to runs and what was made of those: by what
    their manifests say, and the rows of those that an interrupted erasure has removed."""
    found = _collected_from(session, input_ids)
    if not found:
        return []
    kinds = (*TEXT_KINDS, "run", "sweep", "version")
    manifests = (manifest for kind in kinds for manifest in artifacts.all_of(kind))
    parents = {row.artifact_id: set(row.parents) for row in session.scalars(select(Dataset))}
    parents |= {manifest.id: set(manifest.parents) for manifest in manifests}
    grown = found
    while grown:
        grown = {name for name, above in parents.items() if name not in found and above & found}
        found |= grown
    return sorted(found)


def _learnt(session: Session, tenant: str, affected: Sequence[str], user_id: str) -> list[dict[str, Any]]:
    """Models that learnt from the user, and those that the user owns."""
    runs = [name for name in affected if kind_of(name) == "run"]
    conditions = [Model.owner == user_id, *(Model.run_artifact.in_(part) for part in in_parts(runs))]
    found = {
        row.id: {"id": row.id, "name": f"{row.family}/{row.name}", "version": row.version, "deployed": row.deployed}
        for condition in conditions
        for row in session.scalars(select(Model).where(Model.tenant == tenant, condition))
    }
    return [found[model_id] for model_id in sorted(found)]


def _raw_of(artifacts: Artifacts, affected: Sequence[str], input_ids: set[str]) -> set[str]:
    """Hashes of the raw bytes that were stored when these inputs were collected: files, and what they had attached."""
    hashes: set[str] = set()
    for name in affected:
        manifest = artifacts.find(name) if kind_of(name) == "documents" else None
        if manifest is None:
            continue
        for row in artifacts.rows(manifest, "documents/", ("url", "sha256", "metadata")):
            if row["url"].partition("#")[0].removeprefix("input:") in input_ids:
                hashes |= hashes_of(row)
    return hashes


def _remove_rows(session: Session, tenant: str, user_id: str, input_ids: Sequence[str], removed: Sequence[str]) -> None:
    for row in _feedback(session, tenant, user_id):
        session.delete(row)
    session.flush()
    session.execute(delete(Answer).where(Answer.tenant == tenant, _is_of(Answer, user_id)))
    for part in in_parts(input_ids):
        session.execute(delete(UserInput).where(UserInput.id.in_(part)))
    for part in in_parts(removed):
        session.execute(delete(CollectedDocument).where(CollectedDocument.artifact_id.in_(part)))
        session.execute(delete(Dataset).where(Dataset.artifact_id.in_(part)))
    _end_ownership(session, tenant, user_id)


def _export_batch(job: Job, storage: Storage, archive: zipfile.ZipFile) -> dict[str, Any]:
    """A batch's row as its caller sees it, and what it asked and was answered as files of the archive."""
    shown = batches.as_dict(job)
    for key in storage.keys(f"{batches.FOLDER}/{job.config['folder']}"):
        with archive.open(f"batches/{job.id}/{key.rpartition('/')[2]}", "w", force_zip64=True) as target:
            for chunk in storage.read_stream(key):
                target.write(chunk)
    return shown


def _answer(row: Answer, settings: Settings) -> dict[str, Any]:
    exchange = answers.exchange_of(row, settings.encryption_keys)
    shown = {"id": row.id, "model_id": row.model_id, "created_at": row.created_at.isoformat()}
    return shown | {"question": exchange.question, "answer": exchange.output}
