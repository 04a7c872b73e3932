"""What transformers, peft and accelerate import and no plan ever runs is left out of the planner's process.

A third of the CPU seconds of a small model's plan went into these imports: torch's compiler, scipy (losses of object
detectors), boto3 (accelerate's questions about SageMaker)."""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
UNUSED = ("scipy",)
"""Optional for whoever imports them."""


def import_lightly() -> None:
    """Import what every plan needs. To be called before transformers and torch's compiler are imported, in a process
    that compiles nothing and only plans."""
    for name in UNUSED:
        if name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say that there is no such module
    import torch

    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = torch._dynamo = DeferredCompiler()
        # What fake tensors import of it at their first use: the frames of an import that tries something and fails stay
        # in a cycle, and with them tensors of the step that is being counted (4 MB a layer of SmolLM2).
        importlib.import_module(f"{COMPILER}.source")
    _import_without("boto3", "accelerate")
    import transformers  # noqa: F401


class DeferredCompiler(ModuleType):
    """`torch._dynamo` before its own code runs: its submodules can be imported, its decorators do nothing, as nothing
    is compiled. Whatever else it is asked for runs that code first."""

    def __init__(self) -> None:
        super().__init__(COMPILER)
        spec = importlib.util.find_spec(COMPILER)
        if spec is None:
            raise ImportError(f"torch has no {COMPILER}")
        self.__spec__, self.__file__, self.__package__ = spec, spec.origin, COMPILER
        self.__path__ = list(spec.submodule_search_locations or ())

    def disable(self, function: Any = None, recursive: bool = True, **options: Any) -> Any:
        """As the real one where nothing is compiled: the function itself."""
        return (lambda decorated: decorated) if function is None else function

    def allow_in_graph(self, function: Any) -> Any:
        """Likewise."""
        return function

    def assume_constant_result(self, function: Any) -> Any:
        """Likewise."""
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        submodule = f"{COMPILER}.{name}"
        if submodule in sys.modules or importlib.util.find_spec(submodule):
            return importlib.import_module(submodule)
        self._run()
        return getattr(self, name)

    def _run(self) -> None:
        """Become the real module: its code runs here, where its submodules are attributes already."""
        spec = self.__spec__
        self.__class__ = ModuleType  # type: ignore[assignment]
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(self)


def _import_without(absent: str, name: str) -> None:
    """Import a module that finds another one absent, which can be imported afterwards."""
    hidden = absent not in sys.modules
    if hidden:
        sys.modules[absent] = None  # type: ignore[assignment]
    try:
        importlib.import_module(name)
    finally:
        if hidden:
            del sys.modules[absent]
