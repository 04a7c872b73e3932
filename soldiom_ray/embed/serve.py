"""Search as a Ray Serve deployment: the model that embeds queries, the last used indexes, a client of Chroma."""

import asyncio
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray import compute
from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.door_defaults import MODE, PASSAGES, Mode
from soldiom_ray.embed.search import Hits, Searcher, check_query, fuse, fusion_depth
from soldiom_ray.errors import InputError, Problem
from soldiom_ray.models.batching import Batches
from soldiom_ray.records import SEARCH_APPLICATION
from soldiom_ray.settings import Settings, load_settings
from soldiom_ray.storage import open_storage

MAX_CHARACTERS = 10_000
MAX_OPEN_INDEXES = 4


class SearchService:
    """What a replica does, called through `serve.get_app_handle("search")`; errors arrive as our own types.

    The model and an index are loaded for the first query that needs them, so that a replica starts in a second.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._embedders: dict[str, Any] = {}
        self._loading = asyncio.Lock()
        self._searchers: dict[str, Searcher] = {}
        self._batches: tuple[Any, Batches[Any]] | None = None
        """The embedder whose texts they are, and its batches."""

    async def search(
        self,
        query: str,
        k: int = PASSAGES,
        index: str | None = None,
        filters: Mapping[str, Any] | None = None,
        mode: Mode = MODE,
    ) -> list[dict[str, Any]]:
        """The k passages that match a query best as {id, text, score, metadata}, best first. `index` is the id of an
        artifact; `filters` are metadata that a passage must have (`{"group": "peft"}`), where `path` is a prefix. The
        score is a cosine similarity (dense), BM25 (lexical) or a sum of reciprocal ranks (hybrid)."""
        if not index:
            raise InputError("No index is named.", remedy="make one first: a recipe with `embed:`")
        if len(query) > MAX_CHARACTERS:
            raise InputError(
                f"The text has {len(query)} characters; at most {MAX_CHARACTERS} are taken.", remedy="shorten it"
            )
        _check_not_blank([query])
        required = dict(filters or {})
        check_query(mode, k, required)
        searcher = await asyncio.to_thread(self._searcher, index)
        depth = fusion_depth(k) if mode == "hybrid" else k
        lists = []
        if mode != "dense":
            lists.append(asyncio.to_thread(searcher.lexical, query, depth, required))
        if mode != "lexical":
            lists.append(self._dense(searcher, query, depth, required))
        hits = await asyncio.gather(*lists)
        return await asyncio.to_thread(searcher.results, fuse(hits, k) if mode == "hybrid" else hits[0])

    async def _dense(self, searcher: Searcher, query: str, limit: int, filters: Mapping[str, str]) -> Hits:
        embedder = await self._embedder(searcher.model)
        embeddings = await asyncio.to_thread(embedder.encode, [query], query=True)
        return await asyncio.to_thread(searcher.dense, embeddings[0], limit, filters)

    def _searcher(self, index: str) -> Searcher:
        """The MAX_OPEN_INDEXES indexes that were searched last stay open."""
        searcher = self._searchers.pop(index, None)
        if searcher is None:
            artifacts = Artifacts(open_storage(self.settings))
            searcher = Searcher(self.settings, artifacts, artifacts.get(index))
        self._searchers[index] = searcher
        while len(self._searchers) > MAX_OPEN_INDEXES:
            self._searchers.pop(next(iter(self._searchers)), None)
        return searcher

    async def embed(self, texts: Sequence[str], model: str | None = None) -> dict[str, list[Any]]:
        """{vectors, tokens}: of each text its vector as the bytes of little-endian float32, and how many tokens it has.
        Texts of all callers are computed together. InputError for texts that are blank or longer than the model
        reads."""
        _check_not_blank(texts)
        embedder = await self._embedder(model)
        tokens = await asyncio.to_thread(embedder.tokens, texts, embedder.max_tokens + 1)
        problems = [
            Problem(f"body.input[{place}]", f"has more than the {embedder.max_tokens} tokens that the model reads")
            for place, ids in enumerate(tokens)
            if len(ids) > embedder.max_tokens
        ]
        if problems:
            raise InputError("Texts are too long for the model.", remedy="send them in parts", problems=problems)
        rows = await self._batches_of(embedder).run([(len(ids), ids) for ids in tokens])
        return {"vectors": [row.astype("<f4").tobytes() for row in rows], "tokens": [len(ids) for ids in tokens]}

    def _batches_of(self, embedder: Any) -> Batches[Any]:
        if self._batches is None or self._batches[0] is not embedder:
            if self._batches is not None:
                self._batches[1].close()
            self._batches = embedder, Batches(lambda tokens: list(embedder.encode_tokens(tokens)), embedder.threads)
        return self._batches[1]

    async def _embedder(self, name: str | None) -> Any:
        from soldiom_ray.domains.builtin_models import MINILM
        from soldiom_ray.models.embedder import Embedder

        name = name or MINILM
        async with self._loading:
            if name not in self._embedders:
                self._embedders.clear()  # one model in memory is enough; indexes rarely differ in theirs
                self._embedders[name] = await asyncio.to_thread(Embedder, self.settings, name)
            return self._embedders[name]


class ServedSearch(SearchService):
    """A replica. The encryption key does not travel through Serve: each replica reads it as every process does."""

    def __init__(self, settings: Settings, keys_digest: str) -> None:
        """`keys_digest` is another one when the keys are: Serve then replaces the replica."""
        compute.bind_replica_port()
        keys = load_settings().encryption_keys or load_settings({"SOLDIOM_HOME": str(settings.home)}).encryption_keys
        super().__init__(dataclasses.replace(settings, encryption_keys=keys))


def serve_search(settings: Settings) -> None:
    """Start serving search on the connected cluster, without waiting for replicas to start; called again with the same
    settings it changes nothing."""
    from ray import serve

    keys_digest = hashlib.sha256(b"".join(settings.encryption_keys)).hexdigest()
    without_secrets = dataclasses.replace(
        settings, github_tokens=(), hf_token=None, database_url=None, encryption_keys=()
    )
    deployment = serve.deployment(
        ServedSearch,
        name="SearchService",
        num_replicas=1,
        max_ongoing_requests=16,
        max_queued_requests=64,
        max_surge_percent=100,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=10,
        logging_config={"log_level": "WARNING"},
    )
    target = serve.RunTarget(deployment.bind(without_secrets, keys_digest), name=SEARCH_APPLICATION, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _check_not_blank(texts: Sequence[str]) -> None:
    if not texts or not all(text.strip() for text in texts):
        raise InputError("A text is empty.", remedy="ask something")
