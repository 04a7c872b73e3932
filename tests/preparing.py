"""Real documents for the tests of prepare and embed: files of installed packages, and a context to work in."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.records import Document, Manifest
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage

PACKAGES = ("rich", "typer", "alembic", "httpx", "peft", "accelerate")


def context_in(folder: Path, **variables: str) -> Context:
    """A context whose storage is a folder."""
    settings = load_settings({"SOLDIOM_HOME": str(folder)} | variables)
    return Context(settings, Artifacts(open_storage(settings)), lambda fraction, message: None)


def document(text: str, group: str, path: str, **fields: Any) -> dict[str, Any]:
    """One row of a documents artifact."""
    row = Document(
        id=hashlib.sha256(f"{group}/{path}".encode()).hexdigest()[:24],
        text=text,
        source="local",
        url=f"file:///{path}",
        path=path,
        group=group,
        version=fields.pop("version", "1.0"),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        license=fields.pop("license", "MIT"),
        collected_at=datetime(2026, 1, 1, tzinfo=UTC),
        **fields,
    )
    return row.model_dump()


def package_documents(packages: Sequence[str] = PACKAGES, most: int = 15) -> list[dict[str, Any]]:
    """Source files of installed packages, each package a group."""
    rows = []
    for package in packages:
        distribution = metadata.distribution(package)
        files = sorted((file for file in distribution.files or () if file.suffix == ".py"), key=str)
        large = [file for file in files if Path(str(file.locate())).stat().st_size > 1500][:most]
        for file in large:
            text = Path(str(file.locate())).read_text()
            rows.append(document(text, package, str(file), version=distribution.version, language="python"))
    return rows


def documents_of(context: Context, rows: Sequence[dict[str, Any]], shard: int = 20) -> Manifest:
    """A documents artifact of these rows."""
    draft = context.artifacts.draft("documents", {"rows": [row["sha256"] + row["id"] for row in rows]})
    for number, start in enumerate(range(0, len(rows), shard)):
        draft.write_rows(f"documents/{number:05d}.parquet", rows[start : start + shard], Document)
    return draft.commit(counts={"documents": len(rows)})
