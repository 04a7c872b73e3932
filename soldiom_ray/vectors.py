"""The vector store: collections of a Chroma server, always over HTTP and always with vectors made by us.

Chroma's in-process client is never used, since two processes that open one folder damage it; nor are its embedding
functions, which download models.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from soldiom_ray.errors import InputError, NotFoundError, UnavailableError
from soldiom_ray.settings import Settings

MAX_ROWS_PER_CALL = 2000
"""Chroma takes at most 5,461 rows in one call; 2,000 rows of 384 numbers keep the request's JSON below 20 MB."""

MAX_RESULTS = 1000


def check_available(settings: Settings) -> None:
    """UnavailableError when Chroma does not answer."""
    with _errors(settings):
        _client(_url(settings)).heartbeat()


def open_collection(settings: Settings, name: str, metadata: Mapping[str, Any] | None = None) -> Any:
    """The collection of this name with cosine distance and no embedding function; made when it does not exist, made
    anew when it has other metadata."""
    for _ in range(2):
        with _errors(settings):
            collection = _client(_url(settings)).get_or_create_collection(
                name,
                configuration={"hnsw": {"space": "cosine"}},
                metadata=dict(metadata) if metadata else None,
                embedding_function=None,
            )
        if dict(collection.metadata or {}) == dict(metadata or {}):
            break
        delete_collection(settings, name)
    return collection


def find_collection(settings: Settings, name: str) -> Any:
    """The collection of this name; NotFoundError when there is none."""
    with _errors(settings, name):
        return _client(_url(settings)).get_collection(name, embedding_function=None)


def delete_collection(settings: Settings, name: str) -> bool:
    """Remove a collection; returns whether it existed."""
    try:
        with _errors(settings, name):
            _client(_url(settings)).delete_collection(name)
    except NotFoundError:
        return False
    return True


def delete_collections(settings: Settings, index: str) -> int:
    """Remove the collections of an index, under whatever encryption key they were made; returns how many."""
    with _errors(settings):
        names = [each.name for each in _client(_url(settings)).list_collections(limit=None)]
    return sum(delete_collection(settings, name) for name in names if name == index or name.startswith(f"{index}-"))


def add(
    collection: Any, ids: Sequence[str], embeddings: Any, metadatas: Sequence[Mapping[str, str | int | float | bool]]
) -> int:
    """Add the rows whose ids the collection does not hold yet; returns their number. `embeddings` is float32
    [ids, dimension].

    Rows that it holds are left as they are: replacing a row costs Chroma five times what a new one does."""
    if not len(ids) == len(embeddings) == len(metadatas):
        raise InputError(
            f"{len(ids)} ids, {len(embeddings)} embeddings, {len(metadatas)} metadatas: not one of each.",
            remedy="give as many of each",
        )
    added = 0
    for start in range(0, len(ids), MAX_ROWS_PER_CALL):
        some = ids[start : start + MAX_ROWS_PER_CALL]
        with _errors(name=collection.name):
            existing = set(collection.get(ids=list(some), include=[])["ids"])
            new = [start + offset for offset, row_id in enumerate(some) if row_id not in existing]
            if new:
                collection.upsert(
                    ids=[ids[row] for row in new],
                    embeddings=embeddings[new],
                    metadatas=[dict(metadatas[row]) for row in new],
                )
        added += len(new)
    return added


def count(collection: Any) -> int:
    """Rows in a collection."""
    with _errors(name=collection.name):
        return int(collection.count())


def search(
    collection: Any,
    embedding: Any,
    k: int,
    metadata: Mapping[str, str] | None = None,
    ids: Sequence[str] | None = None,
) -> list[tuple[str, float]]:
    """The ids of the k nearest rows with their cosine similarity, best first: among the rows that have this metadata,
    or among those of these ids. `embedding` is float32 [dimension]."""
    if not 1 <= k <= MAX_RESULTS:
        raise InputError(f"k is {k}; it must be from 1 to {MAX_RESULTS}.", remedy="ask for fewer passages")
    conditions = [{name: value} for name, value in (metadata or {}).items()]
    with _errors(name=collection.name):
        answer = collection.query(
            query_embeddings=[list(map(float, embedding))],
            n_results=k,
            where={"$and": conditions} if len(conditions) > 1 else (conditions[0] if conditions else None),
            ids=list(ids) if ids is not None else None,
            include=["distances"],
        )
    distances = zip(answer["ids"][0], answer["distances"][0], strict=True)
    return [(row_id, 1.0 - float(distance)) for row_id, distance in distances]


def _url(settings: Settings) -> str:
    if not settings.chroma_url:
        raise UnavailableError("Chroma is not running.", remedy="run `soldiom up`")
    return settings.chroma_url


@cache
def _client(url: str) -> Any:
    import chromadb
    from chromadb.config import Settings as ChromaSettings

    parts = urlsplit(url)
    secure = parts.scheme == "https"
    try:
        return chromadb.HttpClient(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or (443 if secure else 80),
            ssl=secure,
            settings=ChromaSettings(anonymized_telemetry=False),
        )
    except ValueError as error:  # chromadb's type for every error of the first call
        if "connect to a Chroma server" in str(error):
            raise UnavailableError(f"Chroma at {url} does not answer.", remedy="run `soldiom up`") from error
        raise _no_chroma(f" at {url}", error) from error


def _no_chroma(where: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"The service{where} is not Chroma, or it fails: {type(error).__name__}.",
        remedy="see `soldiom status`, Chroma's log, and SOLDIOM_CHROMA_URL",
    )


@contextmanager
def _errors(settings: Settings | None = None, name: str = "") -> Iterator[None]:
    import chromadb.errors
    import httpx

    where = f" at {settings.chroma_url}" if settings and settings.chroma_url else ""
    try:
        yield
    except chromadb.errors.NotFoundError as error:
        raise NotFoundError(
            f"Chroma{where} has no collection {name!r}.", remedy="run the `embed` stage again"
        ) from error
    except httpx.TransportError as error:
        raise UnavailableError(f"Chroma{where} does not answer.", remedy="run `soldiom up`") from error
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise _no_chroma(where, error) from error
    except chromadb.errors.ChromaError as error:
        raise UnavailableError(
            f"Chroma{where} refused: {type(error).__name__}.", remedy="see `soldiom status` and Chroma's log"
        ) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise _no_chroma(where, error) from None  # chromadb's own error, which contains the whole response
