"""What a collected file is: its language, its kind, its framework. Rules over path and text, no model.

How often the rules agree with labels given by hand is printed by tests/test_collect_label.py.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from soldiom_ray.records import DocumentKind, Framework

LANGUAGES = {
    ".py": "python", ".pyi": "python", ".pyx": "cython", ".ipynb": "python", ".md": "markdown", ".markdown": "markdown",
    ".rst": "restructuredtext", ".txt": "text", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json",
    ".jsonl": "json", ".ini": "ini", ".cfg": "ini", ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".hpp": "cpp",
    ".cu": "cuda", ".cuh": "cuda", ".js": "javascript", ".ts": "typescript", ".java": "java", ".go": "go",
    ".rs": "rust", ".sh": "shell", ".html": "html", ".htm": "html", ".css": "css", ".sql": "sql", ".r": "r",
    ".jl": "julia", ".rb": "ruby",
    ".scala": "scala", ".kt": "kotlin", ".swift": "swift", ".php": "php", ".csv": "csv", ".tsv": "csv", ".tex": "latex",
}  # fmt: skip

_TEST_FOLDERS = {"test", "tests", "testing", "_testing"}
_DOCUMENTATION = {".md", ".markdown", ".rst", ".tex", ".html", ".htm"}
_CONFIGURATION = {".yaml", ".yml", ".toml", ".ini", ".cfg", ".json"}
_CONFIGURATION_NAMES = {
    "requirements.txt",
    "constraints.txt",
    "cmakelists.txt",
    "setup.py",
    "setup.cfg",
    "top_level.txt",
}

_IMPORT = re.compile(r"^[ \t]*(?:>>>[ \t]*)?(?:from[ \t]+([\w.]+)[ \t]+import|import[ \t]+([\w., \t]+))", re.MULTILINE)
_FRAMEWORKS: dict[str, Framework] = {
    "torch": "pytorch", "pytorch_lightning": "pytorch", "lightning": "pytorch", "torchvision": "pytorch",
    "torchaudio": "pytorch", "torchtune": "pytorch", "deepspeed": "pytorch", "timm": "pytorch", "fastai": "pytorch",
    "peft": "pytorch", "accelerate": "pytorch", "trl": "pytorch", "diffusers": "pytorch", "bitsandbytes": "pytorch",
    "tensorflow": "tensorflow", "keras": "tensorflow", "tf_keras": "tensorflow", "tensorflow_datasets": "tensorflow",
    "jax": "jax", "flax": "jax", "haiku": "jax", "optax": "jax", "equinox": "jax",
}  # fmt: skip

_LAYER_BASE = (
    r"(?:nn\.)?(?:Module|Embedding|Linear|Conv[123]d|LayerNorm|ModuleList|Sequential)|LightningModule|\w*PreTrainedModel"
    r"|(?:\w+\.)?(?:keras\.)?(?:layers\.)?(?:Layer|Model)|\w+Layer|\w+Attention|\w+MLP|\w+ForCausalLM|\w+RMSNorm|\w+Encoder|\w+Decoder"
)
_ARCHITECTURE = re.compile(rf"^[ \t]*class[ \t]+\w+\([^)]*\b(?:{_LAYER_BASE})\b[^)]*\)", re.MULTILINE)
_FORWARD = re.compile(r"^[ \t]+def[ \t]+(?:forward|__call__|call)\(", re.MULTILINE)
_TRAINING = re.compile(
    r"\b(?:loss|total_loss)\.backward\(|accelerator\.backward\(|optimizer\.(?:step|zero_grad|apply_gradients)\(|\bTrainingArguments\("
    r"|^class[ \t]+\w*(?:Trainer|TrainerCallback|Optimizer|LRScheduler|TrainingArguments)\b|\btrainer\.(?:train|fit)\("
    r"|\bmodel\.fit\(|\btrain_one_epoch\b|\btraining_step\(|\blr_scheduler\b|\bmodel\.train\(\)|GradientTape\(",
    re.MULTILINE,
)
_TRAINING_SIGNS = ("backward(", "rain", "ptimizer", "fit(", "scheduler", "Scheduler", "Tape(")
"""Every match of _TRAINING holds one of these; looking for them first takes a third of the time (standard library)."""

_DATASET_BASES = (
    r"\w*Dataset|IterableDataset|DataLoader|\w*DataModule|Sampler|GeneratorBasedBuilder|\w*Tokenizer\w*|\w*FeatureExtract\w+"
    r"|\w*ImageProcess\w+|\w*ProcessorMixin|\w*TokenizersBackend|\w*Converter|Datasource|\w*Preprocessor"
)
_DATASET = re.compile(
    rf"^class[ \t]+\w+\([^)]*\b(?:{_DATASET_BASES})\b"
    r"|^class[ \t]+\w*(?:DataCollator|Dataset|DataLoader|Tokenizer|Preprocessor)\w*\b|\bload_dataset\(|\bDataLoader\("
    r"|^[ \t]*def[ \t]+(?:preprocess|tokenize|collate|__getitem__|read_csv|read_parquet)\w*\(",
    re.MULTILINE,
)
_CONFIGURATION_CLASS = re.compile(
    r"^class[ \t]+\w*Config\w*\(|^class[ \t]+\w+\([^)]*\bP(?:retrained|reTrained)Config\b", re.MULTILINE
)

_NAMES: tuple[tuple[DocumentKind, str], ...] = (
    ("configuration", r"^(?:config(?:uration)?s?|settings|constants|options|_?version)(?:_.*)?$"),
    ("configuration", r"_config(?:s|uration)?$"),
    ("architecture", r"^(?:modeling|modelling|modular)_|^(?:model|layers?|attention|transformer)$|_model$|_layers?$"),
    ("training", r"(?:^|_)(?:train|trainer|training|trainable|finetune|fine_tune|pretrain|lr_scheduler)(?:_|$)"),
    ("training", r"(?:^|_)(?:optimizer|optimization|optim)(?:_|$)|^run_(?:clm|mlm|glue)"),
    ("dataset", r"(?:^|_)(?:datasets?|dataloaders?|data_loader|datasources?|collator|collate)(?:_|$)"),
    ("dataset", r"(?:^|_)(?:tokenization|tokenizers?|preprocess(?:ing|or)?|preprocessors?|processing)(?:_|$)"),
    ("dataset", r"(?:^|_)(?:feature_extraction|image_transforms|audio_utils)(?:_|$)"),
)
_NAME_RULES = tuple((kind, re.compile(pattern)) for kind, pattern in _NAMES)

_FOLDER_RULES: tuple[tuple[DocumentKind, set[str], bool], ...] = (
    ("dataset", {"datasets", "dataset", "tokenization", "preprocessors", "datasource", "dataloader"}, False),
    ("dataset", {"data"}, True),
    ("training", {"trainer", "trainers", "optim", "optimizers"}, False),
    ("training", {"train", "training"}, True),
    ("architecture", {"models", "modeling", "layers", "architectures"}, True),
)
"""Folders, and whether a file in them needs a sign of its kind in its text too."""


@dataclass(frozen=True, slots=True)
class Label:
    """What the rules say about one file."""

    kind: DocumentKind
    framework: Framework
    language: str


def label(path: str, text: str) -> Label:
    """Label one file by its path (with `/`) and its text."""
    place = PurePosixPath(path.lower())
    return Label(
        kind_of(place, text),
        framework_of(place, text),
        "markdown" if place.stem == "metadata" else LANGUAGES.get(place.suffix, ""),
    )


def kind_of(place: PurePosixPath, text: str) -> DocumentKind:
    """The kind of a file; `place` is its path in lower case."""
    name, stem = place.name, place.stem
    if (
        _TEST_FOLDERS & set(place.parts[:-1])
        or stem.startswith("test_")
        or stem.endswith("_test")
        or name == "conftest.py"
    ):
        return "test"
    if name in _CONFIGURATION_NAMES or place.suffix in _CONFIGURATION:
        return "configuration"
    if place.suffix in _DOCUMENTATION or place.suffix == ".txt" or stem == "metadata":
        return "documentation"
    if place.suffix not in (".py", ".pyi", ".ipynb", ".pyx"):
        return "other"
    return _kind_of_code(place, text)


def framework_of(place: PurePosixPath, text: str) -> Framework:
    """The framework that a file imports most often."""
    counts: dict[Framework, int] = {}
    for found in _IMPORT.finditer(text):
        names = [found[1]] if found[1] else [part.split()[0] for part in found[2].split(",") if part.strip()]
        for name in names:
            framework = _FRAMEWORKS.get(name.partition(".")[0])
            if framework:
                counts[framework] = counts.get(framework, 0) + 1
    if counts:
        return max(sorted(counts), key=counts.__getitem__)
    if re.search(r"(?:^|_)(?:flax|jax)(?:_|$)", place.stem):
        return "jax"
    return "tensorflow" if re.search(r"(?:^|_)(?:tf|tensorflow|keras)(?:_|$)", place.stem) else "none"


def _kind_of_code(place: PurePosixPath, text: str) -> DocumentKind:
    for kind, pattern in _NAME_RULES:
        if pattern.search(place.stem):
            return kind
    layers, forwards = len(_ARCHITECTURE.findall(text)), len(_FORWARD.findall(text))
    scores: dict[DocumentKind, float] = {
        "architecture": 3.0 * min(layers, forwards) + 0.5 * layers,
        "training": 1.5 * len(_TRAINING.findall(text)) if any(sign in text for sign in _TRAINING_SIGNS) else 0.0,
        "dataset": 2.0 * len(_DATASET.findall(text)),
        "configuration": 2.0 * len(_CONFIGURATION_CLASS.findall(text)),
    }
    for kind, names, needs_more in _FOLDER_RULES:
        if names & set(place.parts[:-1]) and place.stem != "__init__" and (scores[kind] or not needs_more):
            scores[kind] += 1.5
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] >= 1.5 else "other"
