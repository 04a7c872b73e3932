"""Labels a collected file with its language, kind and framework, by rules over path and text, without a model.

tests/test_collect_label.py prints how often the rules agree with labels assigned by hand.
"""

import re
from collections.abc import Iterator
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

_IMPORT = re.compile(
    r"^([ \t]*(?:>>>[ \t]*)?)(?:from[ \t]+([\w.]+)[ \t]+import|import[ \t]+([\w., \t]+)"
    r"|(?:torch|tf|jax)\w*[\w, \t]*=[ \t]*try_import_(tf|torch|jax)\()",
    re.MULTILINE,
)
_GUARDED_IMPORTS: dict[str, Framework] = {"tf": "tensorflow", "torch": "pytorch", "jax": "jax"}
_FRAMEWORKS: dict[str, Framework] = {
    "torch": "pytorch", "pytorch_lightning": "pytorch", "lightning": "pytorch", "torchvision": "pytorch",
    "torchaudio": "pytorch", "torchtune": "pytorch", "deepspeed": "pytorch", "timm": "pytorch", "fastai": "pytorch",
    "peft": "pytorch", "accelerate": "pytorch", "trl": "pytorch", "diffusers": "pytorch", "bitsandbytes": "pytorch",
    "tensorflow": "tensorflow", "keras": "tensorflow", "tf_keras": "tensorflow", "tensorflow_datasets": "tensorflow",
    "jax": "jax", "flax": "jax", "haiku": "jax", "optax": "jax", "equinox": "jax",
}  # fmt: skip

_CLASS = re.compile(r"^([ \t]*)class[ \t]+(\w+)[ \t]*(?:\(([^()]{0,300}))?", re.MULTILINE)
"""The bound keeps it linear: with `\([^)]*` a file of 180 kB that only opens classes took minutes."""

_LAYERS = {
    "Module", "Embedding", "Linear", "Conv1d", "Conv2d", "Conv3d", "LayerNorm", "ModuleList", "Sequential",
    "LightningModule", "Model",
}  # fmt: skip
_LAYER_ENDS = (
    "Layer", "Attention", "MLP", "RMSNorm", "Encoder", "Decoder", "ForCausalLM", "PreTrainedModel", "RLModule",
)  # fmt: skip
_FRAMEWORK_MODULE = re.compile(r"(?:Torch|TF|Tf|Flax)\w*Module")
_FORWARD = re.compile(r"^[ \t]+def[ \t]+(?:_?forward\w*|__call__|call)\(", re.MULTILINE)

_TRAINING_CLASS_ENDS = (
    "Trainer", "TrainerCallback", "TrainStep", "Optimizer", "OptimizerWrapper", "LRScheduler", "SchedulerWrapper",
    "TrainingArguments",
)  # fmt: skip
_TRAINING_BASE_ENDS = ("Learner", "Trainable")
_TRAINING = re.compile(
    r"\b(?:loss|total_loss)\.backward\(|accelerator\.backward\(|optimizer\.(?:step|zero_grad|apply_gradients)\("
    r"|\btrainer\.(?:train|fit)\(|\bmodel\.fit\(|\btrain_one_epoch\b|\btraining_step\(|GradientTape\("
    r"|\bTrainingArguments\(|\bhyperparameter_search\("
)
_TRAINING_HINT = re.compile(
    r"\blr_scheduler\b|\bmodel\.train\(\)|\boptim\.[A-Z]\w+\(|\btune\.(?:Tuner|run)\(|\btuner\.fit\("
    r"|^[ \t]*def[ \t]+train(?:_\w+)?\(",
    re.MULTILINE,
)
"""These also occur in documentation and in code that a trainer calls, so a single match does not decide."""

_TRAINING_SIGNS = ("backward(", "rain", "ptimizer", "optim.", "fit(", "tune.", "hyperp", "cheduler", "Tape(")
"""Every match of _TRAINING and _TRAINING_HINT contains one of these; searching for them first takes a third of the time
(measured on the standard library)."""

_DATA_BASES = {"DataLoader", "Sampler", "GeneratorBasedBuilder"}
_DATA_BASE_ENDS = (
    "Dataset", "DataPipe", "DataModule", "Datasource", "Preprocessor", "ProcessorMixin", "TokenizersBackend",
    "Converter",
)  # fmt: skip
_DATA_BASE_WORDS = re.compile(r"Tokenizer|FeatureExtract|ImageProcess")
_DATA_CLASS_WORDS = re.compile(r"DataCollator|Dataset|DataLoader|Tokenizer|Preprocessor")
_DATA = re.compile(
    r"\bload_dataset\(|\bDataLoader\(|^[ \t]*def[ \t]+(?:preprocess|tokenize|collate|read_csv|read_parquet)\w*\(",
    re.MULTILINE,
)

_NAMES: tuple[tuple[DocumentKind, str], ...] = (
    ("configuration", r"^(?:config(?:uration)?s?|settings|constants|options|_?version)(?:_.*)?$"),
    ("configuration", r"_(?:config(?:s|uration)?|options)$"),
    ("architecture", r"^(?:modeling|modelling|modular)_|^(?:model|layers?|attention|transformer)$|_model$|_layers?$"),
    (
        "training",
        r"(?:^|_)(?:train|trainer|training|trainable|finetune|fine_tune|pretrain|lr_scheduler|learner)(?:_|$)",
    ),
    ("training", r"(?:^|_)(?:optimizer|optimization|optim)(?:_|$)|^run_(?:clm|mlm|glue)"),
    ("dataset", r"(?:^|_)(?:datasets?|dataloaders?|data_loader|datasources?|collator|collate)(?:_|$)"),
    ("dataset", r"(?:^|_)(?:tokenization|tokenizers?|preprocess(?:ing|or)?|preprocessors?|processing)(?:_|$)"),
    ("dataset", r"(?:^|_)(?:feature_extraction|image_transforms|audio_utils)(?:_|$)"),
)
_NAME_RULES = tuple((kind, re.compile(pattern)) for kind, pattern in _NAMES)

_FOLDER_RULES: tuple[tuple[DocumentKind, set[str], bool], ...] = (
    ("dataset", {"datasets", "dataset", "tokenization", "preprocessors", "datasource", "dataloader"}, False),
    ("dataset", {"data"}, True),
    ("configuration", {"config", "configs", "configuration"}, False),
    ("training", {"trainer", "trainers", "optim", "optimizers"}, False),
    ("training", {"train", "training"}, True),
    ("architecture", {"models", "modeling", "layers", "architectures"}, True),
)
"""(kind, folder names, whether a file in them also needs evidence of that kind in its text)."""


@dataclass(frozen=True, slots=True)
class Label:
    """The labels of one file; `language` is "" where its ending is not known."""

    kind: DocumentKind
    framework: Framework
    language: str


def label(path: str, text: str) -> Label:
    """Label one file by its path (with `/`) and its text."""
    lower_path = PurePosixPath(path.lower())
    return Label(
        kind_of(lower_path, text),
        framework_of(lower_path, text),
        "markdown" if lower_path.stem == "metadata" else LANGUAGES.get(lower_path.suffix, ""),
    )


def kind_of(path: PurePosixPath, text: str) -> DocumentKind:
    """The kind of a file; `path` is in lower case."""
    name, stem = path.name, path.stem
    if (
        _TEST_FOLDERS & set(path.parts[:-1])
        or stem.startswith("test_")
        or stem.endswith("_test")
        or name == "conftest.py"
    ):
        return "test"
    if name in _CONFIGURATION_NAMES or path.suffix in _CONFIGURATION:
        return "configuration"
    if path.suffix in _DOCUMENTATION or path.suffix == ".txt" or stem == "metadata":
        return "documentation"
    if path.suffix not in (".py", ".pyi", ".ipynb", ".pyx"):
        return "other"
    return _kind_of_code(path, text)


def framework_of(path: PurePosixPath, text: str) -> Framework:
    """The framework that a file imports at top level, else the one it imports most often; "none" for a tie. Examples in
    docstrings of programs do not count, examples in documentation do."""
    imports: dict[Framework, tuple[bool, int]] = {}
    is_program = path.suffix in (".py", ".pyi", ".pyx")
    for match in _IMPORT.finditer(text):
        if is_program and ">>>" in match[1]:
            continue
        for framework in _imported(match):
            is_top_level, count = imports.get(framework, (False, 0))
            imports[framework] = (is_top_level or not match[1], count + 1)
    if imports:
        leaders = [name for name, value in imports.items() if value == max(imports.values())]
        return leaders[0] if len(leaders) == 1 else "none"
    if re.search(r"(?:^|_)(?:flax|jax)(?:_|$)", path.stem):
        return "jax"
    return "tensorflow" if re.search(r"(?:^|_)(?:tf|tensorflow|keras)(?:_|$)", path.stem) else "none"


def _imported(match: re.Match[str]) -> Iterator[Framework]:
    """The frameworks that one import statement names."""
    if match[4]:
        yield _GUARDED_IMPORTS[match[4]]
        return
    names = [match[2]] if match[2] else [part.split()[0] for part in match[3].split(",") if part.strip()]
    for name in names:
        if framework := _FRAMEWORKS.get(name.partition(".")[0]):
            yield framework


def _scores(text: str) -> dict[DocumentKind, float]:
    """Evidence for each kind in a program: class names, base classes and calls."""
    layers, training, data, configuration = 0, 0, len(_DATA.findall(text)), 0
    for class_match in _CLASS.finditer(text):
        name, bases = class_match[2], re.findall(r"\w+", class_match[3] or "")
        layers += any(_is_layer(base) for base in bases)
        if not class_match[1]:
            training += name.endswith(_TRAINING_CLASS_ENDS) or any(base.endswith(_TRAINING_BASE_ENDS) for base in bases)
            data += bool(_DATA_CLASS_WORDS.search(name)) or any(_is_data(base) for base in bases)
            configuration += class_match[3] is not None and (
                "Config" in name or any(base.endswith(("PretrainedConfig", "PreTrainedConfig")) for base in bases)
            )
    hints = 0
    if any(sign in text for sign in _TRAINING_SIGNS):
        training += len(_TRAINING.findall(text))
        hints = len(_TRAINING_HINT.findall(text))
    return {
        "architecture": 3.0 * min(layers, len(_FORWARD.findall(text))) + 0.5 * layers,
        "training": 1.5 * training + 0.75 * hints,
        "dataset": 2.0 * data,
        "configuration": 2.0 * configuration,
    }


def _is_layer(base: str) -> bool:
    return base in _LAYERS or base.endswith(_LAYER_ENDS) or bool(_FRAMEWORK_MODULE.fullmatch(base))


def _is_data(base: str) -> bool:
    return base in _DATA_BASES or base.endswith(_DATA_BASE_ENDS) or bool(_DATA_BASE_WORDS.search(base))


def _kind_of_code(path: PurePosixPath, text: str) -> DocumentKind:
    for kind, pattern in _NAME_RULES:
        if pattern.search(path.stem):
            return kind
    scores = _scores(text)
    for kind, names, needs_more in _FOLDER_RULES:
        if names & set(path.parts[:-1]) and path.stem != "__init__" and (scores[kind] or not needs_more):
            scores[kind] += 1.5
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] >= 1.5 else "other"
