"""Search as a Ray Serve deployment: one model that embeds questions, and a client of the vector store."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.records import SEARCH_APPLICATION
from soldiom_ray.settings import Settings

MOST_CHARACTERS = 10_000
MOST_TEXTS = 256


class SearchService:
    """What a replica does. Called through `serve.get_app_handle("search")`; errors arrive as our own types.

    The model is loaded with the first question that needs it, so that a replica starts in a second.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._embedders: dict[str, Any] = {}
        self._loading = asyncio.Lock()

    async def search(
        self, query: str, k: int = 5, collection: str | None = None, filters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """The k passages nearest to a question as {id, text, score, metadata}, best first. `collection` is the one that
        the tenant's index names; `filters` are metadata values that must be equal (`{"group": "peft"}`)."""
        from soldiom_ray import vectors

        if not collection:
            raise InputError("No collection is named.", remedy="make an index first: a recipe with `embed:`")
        _check_texts([query])
        _check_filters(filters)
        found = await asyncio.to_thread(vectors.find_collection, self.settings, collection)
        embedder = await self._embedder((found.metadata or {}).get("model"))
        embedded = await asyncio.to_thread(embedder.encode, [query])
        return await asyncio.to_thread(vectors.search, found, embedded[0], k, filters)

    async def embed(self, texts: Sequence[str], model: str | None = None) -> list[list[float]]:
        """The vectors of up to MOST_TEXTS texts."""
        _check_texts(texts)
        embedder = await self._embedder(model)
        vectors = await asyncio.to_thread(embedder.encode, list(texts))
        rows: list[list[float]] = vectors.tolist()
        return rows

    async def _embedder(self, name: str | None) -> Any:
        from soldiom_ray.models.embedder import MINILM, Embedder

        name = name or MINILM
        async with self._loading:
            if name not in self._embedders:
                self._embedders.clear()  # one model in memory is enough; indexes rarely differ in theirs
                self._embedders[name] = await asyncio.to_thread(Embedder, self.settings, name)
            return self._embedders[name]


def serve_search(settings: Settings) -> None:
    """Begin to serve search on the connected cluster, without waiting for the embedder to load; again with the same
    settings it changes nothing."""
    from ray import serve

    plain = dataclasses.replace(settings, github_tokens=(), hf_token=None, database_url=None, encryption_key=None)
    deployment = serve.deployment(
        SearchService,
        name="SearchService",
        num_replicas=1,
        max_ongoing_requests=4,
        max_queued_requests=64,
        max_surge_percent=100,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=10,
        logging_config={"log_level": "WARNING"},
    )
    target = serve.RunTarget(deployment.bind(plain), name=SEARCH_APPLICATION, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _check_texts(texts: Sequence[str]) -> None:
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise InputError(f"{len(texts)} texts were given; it must be 1 to {MOST_TEXTS}.", remedy="split the request")
    longest = max(map(len, texts))
    if longest > MOST_CHARACTERS:
        raise InputError(f"A text has {longest} characters; at most {MOST_CHARACTERS} are taken.", remedy="shorten it")
    if not all(text.strip() for text in texts):
        raise InputError("A text is empty.", remedy="ask something")


def _check_filters(filters: Mapping[str, Any] | None) -> None:
    from soldiom_ray.embed.index import ABOUT

    for name, value in (filters or {}).items():
        if name not in ABOUT or not isinstance(value, str):
            raise InputError(
                f"filters: {name!r} cannot be filtered by; known: {', '.join(ABOUT)}, each a text.",
                remedy="use one of them",
            )
