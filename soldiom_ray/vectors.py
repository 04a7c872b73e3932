"""The vector store: collections of a Chroma server, always over HTTP and always with vectors made by us.

Two processes with a Chroma folder of their own would damage it, and Chroma's own embedding functions download models,
so neither is ever used.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from soldiom_ray.errors import InputError, NotFoundError, UnavailableError
from soldiom_ray.settings import Settings

MOST_PER_CALL = 2000
"""Chroma takes at most 5,461 rows in one call; 2,000 rows of 384 numbers keep the request's JSON below 20 MB."""

MOST_RESULTS = 1000


def open_collection(settings: Settings, name: str, metadata: Mapping[str, Any] | None = None) -> Any:
    """The collection of this name, made when it does not exist: cosine distance, no embedding function."""
    with _errors(settings):
        return _client(_url(settings)).get_or_create_collection(
            name,
            configuration={"hnsw": {"space": "cosine"}},
            metadata=dict(metadata) if metadata else None,
            embedding_function=None,
        )


def find_collection(settings: Settings, name: str) -> Any:
    """The collection of this name; NotFoundError when there is none."""
    with _errors(settings, name):
        return _client(_url(settings)).get_collection(name, embedding_function=None)


def delete_collection(settings: Settings, name: str) -> bool:
    """Remove a collection; whether there was one."""
    try:
        with _errors(settings, name):
            _client(_url(settings)).delete_collection(name)
    except NotFoundError:
        return False
    return True


def add(
    collection: Any,
    ids: Sequence[str],
    embeddings: Any,
    documents: Sequence[str],
    metadatas: Sequence[Mapping[str, str | int | float | bool]],
) -> None:
    """Add rows, replacing those of the same id: doing it twice changes nothing. `embeddings` is [n, dimension]."""
    if not len(ids) == len(embeddings) == len(documents) == len(metadatas):
        raise InputError(
            f"{len(ids)} ids, {len(embeddings)} embeddings, {len(documents)} documents, {len(metadatas)} metadatas:"
            " not one of each.",
            remedy="give as many of each",
        )
    for start in range(0, len(ids), MOST_PER_CALL):
        some = slice(start, start + MOST_PER_CALL)
        with _errors():
            collection.upsert(
                ids=list(ids[some]),
                embeddings=embeddings[some],
                documents=list(documents[some]),
                metadatas=[dict(one) for one in metadatas[some]],
            )


def count(collection: Any) -> int:
    """Rows in a collection."""
    with _errors():
        return int(collection.count())


def search(collection: Any, embedding: Any, k: int, filters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The k nearest rows as {id, text, score, metadata}, best first; score is the cosine similarity. `filters` are
    metadata values that must be equal."""
    if not 1 <= k <= MOST_RESULTS:
        raise InputError(f"k is {k}; it must be from 1 to {MOST_RESULTS}.", remedy="ask for fewer passages")
    equal = [{name: value} for name, value in (filters or {}).items()]
    where = {"$and": equal} if len(equal) > 1 else (equal[0] if equal else None)
    with _errors():
        found = collection.query(
            query_embeddings=[list(map(float, embedding))],
            n_results=k,
            where=where,
            include=["documents", "metadatas", "distances"],
        )
    rows = zip(found["ids"][0], found["documents"][0], found["distances"][0], found["metadatas"][0], strict=True)
    return [
        {"id": one, "text": text, "score": round(1.0 - float(distance), 6), "metadata": dict(metadata or {})}
        for one, text, distance, metadata in rows
    ]


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
    return chromadb.HttpClient(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or (443 if secure else 80),
        ssl=secure,
        settings=ChromaSettings(anonymized_telemetry=False),
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
    except ValueError as error:
        if "connect to a Chroma server" in str(error):
            raise UnavailableError(f"Chroma{where} does not answer.", remedy="run `soldiom up`") from error
        raise
    except chromadb.errors.ChromaError as error:
        raise UnavailableError(
            f"Chroma{where} refused: {type(error).__name__}.", remedy="see `soldiom status` and Chroma's log"
        ) from error
