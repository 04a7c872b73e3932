"""The models that a worker has loaded: one at a time, which goes on to the next part as long as that needs the same."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.errors import DamagedError, InputError, NotFoundError
from soldiom_ray.metrics.measurement import BASE, PREVIOUS, TUNED
from soldiom_ray.models.adapters import below_adapter, merged, without_adapter
from soldiom_ray.models.load import load_base, load_run
from soldiom_ray.models.task_models import CAUSAL_CLASS
from soldiom_ray.records import Manifest
from soldiom_ray.settings import Settings


class SystemMissingError(Exception):
    """The system cannot be scored; the reason is for the report, and the others go on without it."""


class LoadedModels:
    """Models by their system. An adapter's base is the tuned model with the adapter switched off."""

    def __init__(self, settings: Settings, artifacts: Artifacts, run: Manifest, previous: Manifest | None) -> None:
        self.settings, self.artifacts, self.run, self.previous = settings, artifacts, run, previous
        self.check: Callable[[str, Any, Any], None] = lambda system, model, processor: None
        self.has_adapter = run.details["method"] != "full"
        self._stack = ExitStack()
        self._source, self._loaded = "", (None, None)
        self._taken: tuple[str, Any] | None = None

    @contextmanager
    def reading(self, system: str) -> Iterator[tuple[Any, Any]]:
        """(model, tokenizer or image processor) as they were loaded."""
        model, processor = self._load(system)
        if system == BASE and self.has_adapter:
            with without_adapter(model) as plain:
                yield plain, processor
        else:
            yield model, processor

    def taken_over(self, system: str, make: Callable[[Any, Any], Any]) -> Any:
        """What `make` makes of a model and its tokenizer, of which nothing else can be made afterwards; made once as
        long as no other model is asked for."""
        if self._taken is not None and self._taken[0] == system:
            return self._taken[1]
        model, processor = self._load(system)
        if system == BASE and self.has_adapter:
            model = below_adapter(model)
        self._loaded = (None, None)  # the original goes as soon as what is made does not need it
        made = make(model, processor)
        self._taken = system, made
        return made

    def close(self) -> None:
        """Let go of what is loaded."""
        self._loaded, self._source, self._taken = (None, None), "", None
        self._stack.close()

    def source_of(self, system: str) -> str:
        """What has to be loaded for a system."""
        return TUNED if system == BASE and self.has_adapter else system

    def _load(self, system: str) -> tuple[Any, Any]:
        source = self.source_of(system)
        if self._source == source and self._taken is None:
            return self._loaded
        self.close()
        try:
            self._loaded = self._stack.enter_context(self._open(source))
        except (NotFoundError, InputError, DamagedError) as error:
            if source == PREVIOUS:
                raise SystemMissingError(f"it cannot be loaded: {error.what}") from error
            raise
        self._source = source
        self.check(source, *self._loaded)
        return self._loaded

    def _open(self, source: str) -> Any:
        if source == BASE:
            if (uncompressed := self._uncompressed()) is not None:
                return self._merged(uncompressed)
            auto_class = self.run.details.get("auto_class", CAUSAL_CLASS)
            return load_base(self.artifacts, self.settings, str(self.run.details["base_model"]), auto_class=auto_class)
        run = self.previous if source == PREVIOUS else self.run
        if run is None:
            raise NotFoundError("There is no earlier version.")
        return load_run(self.artifacts, self.settings, run)

    def _uncompressed(self) -> Manifest | None:
        """What a compressed run was made of, of which it is the base."""
        return self.artifacts.get(self.run.details["base_model"]) if self.run.details.get("compression") else None

    @contextmanager
    def _merged(self, run: Manifest) -> Iterator[tuple[Any, Any]]:
        with load_run(self.artifacts, self.settings, run) as (model, processor):
            yield merged(model), processor
