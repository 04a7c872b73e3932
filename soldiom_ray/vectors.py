"""The vector store: collections of a Chroma server, always over HTTP and always with vectors made by us.

Two processes with a Chroma folder of their own would damage it, and Chroma's own embedding functions download models,
so neither is ever used.
"""

import json
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


def check_answers(settings: Settings) -> None:
    """UnavailableError when Chroma does not answer."""
    with _errors(settings):
        _client(_url(settings)).heartbeat()


def open_collection(settings: Settings, name: str, metadata: Mapping[str, Any] | None = None) -> Any:
    """The collection of this name, made when it does not exist or tells other metadata: cosine distance, no embedding
    function."""
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
    """Remove a collection; whether there was one."""
    try:
        with _errors(settings, name):
            _client(_url(settings)).delete_collection(name)
    except NotFoundError:
        return False
    return True


def add(
    collection: Any, ids: Sequence[str], embeddings: Any, metadatas: Sequence[Mapping[str, str | int | float | bool]]
) -> int:
    """Add the rows whose ids the collection does not hold; how many those were. `embeddings` is [n, dimension].

    Rows that it holds are left as they are: to replace one costs Chroma five times what a new one does."""
    if not len(ids) == len(embeddings) == len(metadatas):
        raise InputError(
            f"{len(ids)} ids, {len(embeddings)} embeddings, {len(metadatas)} metadatas: not one of each.",
            remedy="give as many of each",
        )
    added = 0
    for start in range(0, len(ids), MOST_PER_CALL):
        some = ids[start : start + MOST_PER_CALL]
        with _errors(name=collection.name):
            held = set(collection.get(ids=list(some), include=[])["ids"])
            new = [start + at for at, one in enumerate(some) if one not in held]
            if new:
                collection.upsert(
                    ids=[ids[at] for at in new],
                    embeddings=embeddings[new],
                    metadatas=[dict(metadatas[at]) for at in new],
                )
        added += len(new)
    return added


def count(collection: Any) -> int:
    """Rows in a collection."""
    with _errors(name=collection.name):
        return int(collection.count())


def search(
    collection: Any, embedding: Any, k: int, equal: Mapping[str, str] | None = None, ids: Sequence[str] | None = None
) -> list[tuple[str, float]]:
    """The ids of the k nearest rows with their cosine similarity, best first: of those whose metadata have the values
    of `equal`, or of those whose ids are named."""
    if not 1 <= k <= MOST_RESULTS:
        raise InputError(f"k is {k}; it must be from 1 to {MOST_RESULTS}.", remedy="ask for fewer passages")
    wanted = [{name: value} for name, value in (equal or {}).items()]
    with _errors(name=collection.name):
        found = collection.query(
            query_embeddings=[list(map(float, embedding))],
            n_results=k,
            where={"$and": wanted} if len(wanted) > 1 else (wanted[0] if wanted else None),
            ids=list(ids) if ids is not None else None,
            include=["distances"],
        )
    return [(one, 1.0 - float(far)) for one, far in zip(found["ids"][0], found["distances"][0], strict=True)]


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
    except ValueError as error:  # of whatever kind the first call's error is
        if "connect to a Chroma server" in str(error):
            raise UnavailableError(f"Chroma at {url} does not answer.", remedy="run `soldiom up`") from error
        raise _no_chroma(f" at {url}", error) from error


def _no_chroma(where: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"What answers as Chroma{where} is none, or fails: {type(error).__name__}.",
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
        raise _no_chroma(where, error) from None  # chromadb's own, with the whole answer in it
