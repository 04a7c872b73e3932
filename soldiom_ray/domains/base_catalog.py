"""Base models that people ask for by a short name: where they are, under which licence, and what for. Data only."""

from dataclasses import asdict, dataclass
from typing import Any

from soldiom_ray.domains.builtin_models import MINILM, SMOLLM2


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One base model. `model` is what `base_model` of a recipe takes: a hub id, or `builtin/...`."""

    name: str
    model: str
    license: str
    """As the model's owner states it, as an SPDX expression."""
    parameters: str
    tasks: tuple[str, ...]
    gated: bool = False
    """Whether the hub asks for an agreement (and `HF_TOKEN`) before it lets the model be downloaded."""

    def as_dict(self) -> dict[str, Any]:
        """The entry as the API and the CLI show it."""
        return asdict(self) | {"tasks": list(self.tasks)}


TEXT = ("causal_lm", "preference")
CLASSIFY = ("text_classification",)

CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry("tiny", "builtin/tiny", "Apache-2.0", "4.2M", TEXT),
    CatalogEntry("smollm2-135m-instruct", f"builtin/{SMOLLM2}", "Apache-2.0", "135M", TEXT),
    CatalogEntry("minilm", f"builtin/{MINILM}", "Apache-2.0", "22.7M", CLASSIFY),
    CatalogEntry("smollm2-1.7b-instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "Apache-2.0", "1.7B", TEXT),
    CatalogEntry("llama-2-7b", "meta-llama/Llama-2-7b-hf", "LicenseRef-Llama-2", "6.7B", TEXT, True),
    CatalogEntry("llama-3-8b", "meta-llama/Meta-Llama-3-8B", "LicenseRef-Llama-3", "8.0B", TEXT, True),
    CatalogEntry("llama-3.1-8b", "meta-llama/Llama-3.1-8B", "LicenseRef-Llama-3.1", "8.0B", TEXT, True),
    CatalogEntry("llama-3.2-1b", "meta-llama/Llama-3.2-1B", "LicenseRef-Llama-3.2", "1.2B", TEXT, True),
    CatalogEntry("mistral-7b", "mistralai/Mistral-7B-v0.3", "Apache-2.0", "7.2B", TEXT),
    CatalogEntry("gemma-2b", "google/gemma-2b", "LicenseRef-Gemma", "2.5B", TEXT, True),
    CatalogEntry("gemma-2-2b", "google/gemma-2-2b", "LicenseRef-Gemma", "2.6B", TEXT, True),
    CatalogEntry("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", "Apache-2.0", "0.49B", TEXT),
    CatalogEntry("qwen2.5-7b", "Qwen/Qwen2.5-7B", "Apache-2.0", "7.6B", TEXT),
    CatalogEntry("t5-small", "google-t5/t5-small", "Apache-2.0", "60.5M", ("seq2seq_lm",)),
    CatalogEntry("flan-t5-base", "google/flan-t5-base", "Apache-2.0", "248M", ("seq2seq_lm",)),
    CatalogEntry("vit-base", "google/vit-base-patch16-224", "Apache-2.0", "86.6M", ("image_classification",)),
)


def model_of(name: str) -> str:
    """What `base_model` says for a catalogue name; "" for one that is not listed."""
    return next((entry.model for entry in CATALOG if entry.name == name.lower()), "")


def license_of(model: str) -> str:
    """The licence of a model by its catalogue name or by what `base_model` says; "" for one that is not listed."""
    bare = model.partition("@")[0].lower()
    return next((entry.license for entry in CATALOG if bare in (entry.name, entry.model.lower())), "")
