"""The recipe: a whole workflow as a declaration whose headings are the stages. This module and `sources` are the only
place of every default."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from soldiom_ray.domains.builtin_models import MINILM, SMOLLM2
from soldiom_ray.domains.content_filter import ContentFilter
from soldiom_ray.domains.federation import Federate, mistakes_of_federation
from soldiom_ray.domains.judge import Judge
from soldiom_ray.domains.metrics import MetricName
from soldiom_ray.domains.references import ARTIFACT, MODEL, RUN, VERSION
from soldiom_ray.domains.search import Auto, Sweep, mistakes_in
from soldiom_ray.domains.sources import Source
from soldiom_ray.records import Family, Record

LicensedUse = Literal["any", "permissive", "commercial"]
FilterName = Literal[
    "min_words", "line_length", "alphabetic", "generated", "language", "gopher_quality", "gopher_repetition", "c4",
    "fineweb", "alphanumeric", "encoded_data", "comments", "data_size", "xml", "html", "near_duplicate"
]  # fmt: skip
RedactionName = Literal[
    "secret", "email", "ip", "phone", "card", "iban", "national_number", "person_name", "birth_date"
]


class LicensePolicy(Record):
    """Which licences may enter a dataset: a rule by use, and SPDX ids that take precedence over it. "unknown" in a list
    stands for documents without a licence."""

    use: LicensedUse = "any"
    allow_unknown: bool = Field(True, description="keep documents whose licence no rule knows")
    allow: tuple[str, ...] = Field((), description="SPDX ids that are always kept")
    deny: tuple[str, ...] = Field((), description="SPDX ids that are always left out")
    ask: tuple[str, ...] = Field((), description="SPDX ids that stay out until a person moves them to `allow`")

    @model_validator(mode="after")
    def _names_known_licenses(self) -> "LicensePolicy":
        if not (self.allow or self.deny or self.ask):
            return self
        from soldiom_ray.licenses import UNKNOWN, normalize

        seen: dict[str, str] = {}
        for field in ("allow", "deny", "ask"):
            for name in getattr(self, field):
                if name != UNKNOWN and (spelled := normalize(name)) != name:
                    hint = f'; did you mean "{spelled}"?' if spelled else ""
                    raise ValueError(f'`{field}` names "{name[:80]}", which is no SPDX id{hint}')
                if " AND " in name or " OR " in name:
                    raise ValueError(f'`{field}` names "{name[:80]}": give single ids, not expressions')
                if name in seen:
                    raise ValueError(f'"{name}" stands in `{seen[name]}` and in `{field}`')
                seen[name] = field
        return self


class SplitRule(Record):
    """How samples are divided into train, validation and test. `by` names what stays in one split: a group (a package,
    a repository, a conversation) or a document; `time` holds out the newest."""

    by: Literal["group", "repository", "conversation", "document", "time"] = Field(
        "group", description="what is never divided between the splits; time: the newest samples are held out"
    )
    test: float = Field(0.1, ge=0, lt=1, description="share held out for the test")
    validation: float = Field(0.05, ge=0, lt=1, description="share held out for validation while training")
    test_groups: tuple[str, ...] = Field(
        (), description="groups that are held out by name, besides or instead of a share"
    )
    seed: int = Field(17, description="seed of the random choice of groups")


class Prepare(Record):
    """Documents become a dataset."""

    filters: tuple[FilterName, ...] = Field(
        ("min_words", "line_length", "alphabetic", "generated", "near_duplicate"), description="filters, in order"
    )
    kinds: tuple[str, ...] = Field((), description="kinds of document kept; empty: all")
    redact: tuple[RedactionName, ...] = Field(
        ("secret", "email", "ip"), description="what is replaced by a placeholder"
    )
    license: LicensePolicy = LicensePolicy()
    split: SplitRule = SplitRule()
    near_duplicate_threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of word 5-grams")
    decontaminate: Literal["registry", "none"] = Field(
        "registry",
        description="drop what overlaps with the test side of every dataset that a registered model was scored on",
    )
    max_documents: int | None = Field(None, ge=1, description="at most this many documents")
    pairs: Literal["docstrings"] | None = Field(
        None,
        description="docstrings: every function of Python documents becomes a question (the function without its"
        " docstring) and its answer (the docstring's first sentence)",
    )
    max_characters: int | None = Field(None, ge=1, description="longer samples are left out")


class Embed(Record):
    """A dataset becomes a searchable index."""

    model: str = Field("all-MiniLM-L6-v2", description="embedding model", json_schema_extra=MODEL)
    max_tokens: int = Field(128, ge=16, le=256, description="tokens per passage")
    max_passages: int | None = Field(None, ge=1, description="at most this many passages")
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("train", "validation", "test"), description="sides of the dataset that are indexed"
    )


Task = Literal["causal_lm", "preference", "seq2seq_lm", "text_classification", "image_classification"]
Method = Literal["full", "lora", "prompt"]
Strategy = Literal["auto", "single", "ddp", "fsdp", "zero2", "zero3"]
DEFAULT_BASES: Mapping[str, str] = {
    "causal_lm": f"builtin/{SMOLLM2}",
    "preference": f"builtin/{SMOLLM2}",
    "text_classification": f"builtin/{MINILM}",
}
"""Task -> the base that is trained when none is named. No model that comes with Soldiom fits the other tasks."""
OF_STEPS = (
    "method", "rank", "alpha", "dropout", "target_modules", "dora", "rslora", "quantization", "virtual_tokens",
    "epochs", "max_tokens", "batch_tokens", "learning_rate", "warmup_ratio", "weight_decay", "gradient_clip",
    "validations", "validation_tokens", "patience", "checkpoint_seconds", "min_workers", "activation_checkpointing",
)  # fmt: skip
"""Settings of a training that learns by steps: a text classifier of which one is named gets the head `network`."""


def _learns_by_steps(values: Mapping[str, Any]) -> bool:
    """Whether a heading `train` asks for what a head that is fitted on a body does not have."""
    alone = (values.get("workers", 1), values.get("strategy", "auto"), values.get("offload", False))
    return (
        any(values.get(name) is not None for name in OF_STEPS)
        or alone not in ((1, "auto", False), (1, "single", False))
        or values.get("architecture") is not None
    )


class Train(Record):
    """A dataset and a base model become a run and its weights.

    With `architecture` the model starts from random weights, its tokenizer is trained on the dataset, and `base_model`
    is empty.
    """

    base_model: str = Field(
        "",
        description=f"builtin/NAME, a Hugging Face folder or hub id, a GGUF file, a full run or the model made of one;"
        f" unset: builtin/{SMOLLM2} (causal_lm, preference), builtin/{MINILM} (text_classification)",
        json_schema_extra=MODEL,
    )
    task: Task = Field(
        "causal_lm",
        description="what is learnt; preference: DPO on chosen and rejected answers; classification: the labels",
    )
    architecture: dict[str, Any] | None = Field(
        None, description="configuration of a model from scratch; its `model_type` is llama, t5, bert, vit or convnext"
    )
    vocabulary_size: int = Field(4096, ge=300, description="only with `architecture`")
    method: Method = Field("lora", description="what is trained: all weights, low-rank adapters, or a soft prompt")
    rank: int = Field(16, ge=1, description="LoRA rank")
    alpha: int = Field(32, ge=1, description="LoRA scale")
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout")
    target_modules: tuple[str, ...] = Field((), description="LoRA targets; empty: all linear layers")
    dora: bool = Field(False, description="LoRA with magnitude and direction apart (Liu et al. 2024)")
    rslora: bool = Field(False, description="LoRA scaled by alpha / sqrt(rank) (Kalajdzievski 2023)")
    quantization: Literal["none", "nf4"] = Field("none", description="nf4: QLoRA, base weights in 4 bits, GPU only")
    virtual_tokens: int = Field(16, ge=1, description="prompt length for method prompt")
    multi_label: bool = Field(False, description="text_classification: a sample may have several labels, or none")
    head: Literal["auto", "network", "linear"] = Field(
        "auto",
        description="text_classification: linear fits a logistic regression on the base's vectors and the text's tokens"
        " (TF-IDF), and leaves the base as it is; network is a new layer that is trained with the base, by steps; auto:"
        " linear, but network where a setting of steps is named (`method`, `epochs`, `learning_rate`, ...), with"
        " several workers or `architecture`, in a sweep and at sites",
    )
    augment: bool = Field(
        False,
        description="image_classification: every time a picture is read it is a little turned, moved, scaled, and"
        " changed in brightness and contrast; never mirrored",
    )
    template_gaps: Literal["fold", "leave_out"] = Field(
        "fold",
        description="conversations that the base's chat template cannot express (tools, calls and their results,"
        " reasoning, a system turn, two turns of one speaker): fold that into turns that it knows, or leave them out",
    )
    beta: float = Field(0.1, gt=0, description="preference: how far the model may leave its base (DPO)")
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    max_tokens: int | None = Field(None, ge=1, description="stop after this many training tokens")
    sequence_length: int = Field(512, ge=8, description="tokens per sequence")
    batch_tokens: int | None = Field(
        None, ge=8, description="tokens per optimiser step over all workers; unset: about 64 steps, at most 8192"
    )
    learning_rate: float | None = Field(None, gt=0, description="peak; unset: 3e-2 prompt, 1e-3 lora, up to 3e-4 full")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    validations: int | None = Field(
        None,
        ge=1,
        description="how often per run the validation loss is taken and a checkpoint kept; unset: 2 to 8, by its size",
    )
    validation_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens of the validation split that are scored each time; unset: all times together a tenth of the"
        " training's work, at most 65536 each",
    )
    patience: int = Field(3, ge=1, description="validations without improvement before training stops")
    checkpoint_seconds: float = Field(120.0, gt=0, description="a checkpoint is kept at least this often")
    workers: int = Field(1, ge=1, description="Ray Train workers")
    min_workers: int | None = Field(
        None, ge=1, description="go on with fewer workers, down to these, while nodes are missing (strategy ddp)"
    )
    strategy: Strategy = Field("auto", description="how workers share the model; auto: what the planner finds")
    offload: bool = Field(False, description="optimiser state in the memory of the host (fsdp, zero2, zero3)")
    activation_checkpointing: bool | None = Field(
        None, description="compute activations again in the backward pass; empty: the planner decides"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="number format of the computation")
    seed: int = Field(17, description="seed of the data order, new weights and dropout")

    @model_validator(mode="before")
    @classmethod
    def _default_base(cls, values: Any) -> Any:
        """Name the base of the task where none is named."""
        if isinstance(values, Mapping) and not values.get("base_model", "") and not values.get("architecture"):
            task = values.get("task", cls.model_fields["task"].default)
            return {**values, "base_model": DEFAULT_BASES.get(task, "") if isinstance(task, str) else ""}
        return values

    @model_validator(mode="before")
    @classmethod
    def _choose_head(cls, values: Any) -> Any:
        """The head where that is left open. With a linear one the run holds the base as it is, whole."""
        if not isinstance(values, Mapping):
            return values
        head = values.get("head", "auto")
        if head == "auto":
            fits = values.get("task") == "text_classification" and not _learns_by_steps(values)
            head = "linear" if fits else "network"
        return {**values, "head": head, **({"method": values.get("method", "full")} if head == "linear" else {})}

    @model_validator(mode="after")
    def _has_what_a_linear_head_reads(self) -> "Train":
        if self.head == "linear" and (self.task != "text_classification" or self.architecture is not None):
            raise ValueError("`head: linear` belongs to `task: text_classification` with a `base_model`")
        if self.head == "linear" and (
            self.method != "full" or self.workers > 1 or self.strategy not in ("auto", "single") or self.offload
        ):
            raise ValueError(
                "`head: linear` has one worker, and no `method`, `strategy` or `offload`: nothing is trained by steps"
            )
        return self

    @model_validator(mode="after")
    def _describes_only(self) -> "Train":
        """An architecture is described by numbers and single words: neither names what would be loaded."""
        pending: list[tuple[str, Any]] = list((self.architecture or {}).items())
        while pending:
            key, value = pending.pop()
            if str(key).startswith("_"):
                raise ValueError(f"`architecture` names {str(key)[:60]!r}, which is internal")
            if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,63}", value):
                raise ValueError(f"`architecture` gives {str(key)[:60]!r} a text that is no single word")
            if isinstance(value, Mapping):
                pending.extend(value.items())
            elif isinstance(value, list | tuple):
                pending.extend((key, item) for item in value)
        return self

    @model_validator(mode="after")
    def _has_a_beginning(self) -> "Train":
        if not self.base_model and self.architecture is None:
            raise ValueError(
                f"no `base_model` is named, and no model that comes with Soldiom fits `task: {self.task}`: name a"
                " Hugging Face folder or hub id, or set `architecture` to begin from random weights"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "Train":
        if self.method != "lora" and (self.dora or self.rslora or self.quantization != "none"):
            raise ValueError("`dora`, `rslora` and `quantization` belong to `method: lora`")
        if self.task == "image_classification" and self.method == "prompt":
            raise ValueError("`method: prompt` tunes word embeddings, which pictures do not have; use lora or full")
        if self.augment and self.task != "image_classification":
            raise ValueError("`augment` belongs to `task: image_classification`")
        if self.multi_label and self.task != "text_classification":
            raise ValueError("`multi_label` belongs to `task: text_classification`")
        if self.architecture is not None and self.method != "full":
            raise ValueError("a model from scratch (`architecture`) is trained with `method: full`")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"`min_workers` is {self.min_workers}, more than `workers` ({self.workers})")
        if self.min_workers is not None and self.strategy not in ("auto", "single", "ddp"):
            raise ValueError(f"`min_workers` goes with `strategy: ddp`, not {self.strategy}")
        if self.offload and self.strategy not in ("auto", "fsdp", "zero2", "zero3"):
            raise ValueError(f"`offload` goes with fsdp, zero2 or zero3, not {self.strategy}")
        return self


class Condition(Record):
    """One condition of a gate: a metric beats something by so much, with this confidence."""

    metric: MetricName | None = Field(
        None, description="metric that decides; unset: loss, of a classification accuracy"
    )
    beat: Literal["base", "baseline", "previous", "value"] = Field(
        "base",
        description="what to beat: the base model (of a classification, which has none, the labels' frequencies, and as"
        " the only condition no trivial baseline may be shown to be better); the best trivial baseline; the version"
        " that is the champion (a first version has none to beat); `value`",
    )
    value: float | None = Field(None, description="the value to beat, with `beat: value`")
    by: float = Field(0.0, description="by how much, in the metric's unit; below 0: how much worse it may be at most")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="confidence of the interval")

    @model_validator(mode="after")
    def _has_its_value(self) -> "Condition":
        if (self.beat == "value") != (self.value is not None):
            raise ValueError("`value` and `beat: value` go together")
        if self.metric == "judge_win_rate" and self.beat != "value":
            raise ValueError("`judge_win_rate` compares with the base already; write `beat: value` and `value: 0.5`")
        return self


class Gate(Condition):
    """When a model may be promoted: one condition, or several."""

    all: tuple[Condition, ...] = Field((), max_length=16, description="conditions that all have to hold")
    any: tuple[Condition, ...] = Field(
        (), max_length=16, description="conditions of which one has to hold, corrected for how many they are"
    )

    @model_validator(mode="after")
    def _combines_once(self) -> "Gate":
        if self.all and self.any:
            raise ValueError("give either `all` or `any`")
        if (self.all or self.any) and (self.metric or self.value is not None or self.by or self.beat != "base"):
            raise ValueError("with `all` or `any` every condition stands inside it")
        others = [each for each in (self.all or self.any or (self,)) if each.metric != "judge_win_rate"]
        if self.judged and (self.any or not others):
            raise ValueError(
                "`judge_win_rate` is never the only ground of a promotion; name another metric beside it in `all`"
            )
        return self

    @property
    def judged(self) -> bool:
        """Whether it asks for a judge."""
        return any(each.metric == "judge_win_rate" for each in (self, *self.all, *self.any))


class Compress(Record):
    """A registered model's run becomes a smaller run, which is scored against it."""

    to: Literal["int8", "int4", "gguf", "gguf-q4"] = Field(
        description="int8, int4: weights in 8 bits, or 4 in groups of 32, which the engine multiplies with; gguf,"
        " gguf-q4: a file in 8 or 4 bits for llama.cpp and what is built on it"
    )


class Evaluate(Record):
    """A run becomes scores."""

    metrics: tuple[MetricName, ...] = Field((), description="metrics to report; unset: all that the task has")
    max_tokens: int = Field(
        200_000, ge=1, description="tokens of the test split that are scored, spread over its groups"
    )
    examples: int = Field(
        3, ge=0, le=50, description="answered prompts that are shown, to read both models' answers side by side"
    )
    answers: int | None = Field(
        None,
        ge=0,
        le=2000,
        description="held-out prompts whose answers by base and tuned model are judged; unset: as many as make about a"
        " fifth of `max_tokens`, prompts included, at most 200",
    )
    tries: int = Field(
        1,
        ge=1,
        le=100,
        description="programs drawn for each task that has checks, at temperature 0.8, of which one has to pass"
        " (pass@k); 1: only the greedy answer",
    )
    answer_schema: dict[str, Any] | None = Field(None, description="JSON schema that answers have to obey")
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="a classifier of one label abstains where it is too unsure: it answers from the probability on"
        " where at most this share of its answers on the validation side is wrong; unset: always",
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples of the interval")
    gate: Gate = Gate()
    seed: int = Field(17, description="seed of the choice of tokens and examples, and of the bootstrap")
    judge: Judge | None = Field(
        None, description="a model that compares the answers of base and tuned model, where no metric fits"
    )

    red_team: bool = Field(
        False,
        description="attack base and tuned model: foreign instructions, training and personal data asked back, harmful"
        " requests",
    )
    workers: int | None = Field(
        None, ge=1, description="Ray workers that score; unset: one for each GPU of the cluster, else one for each node"
    )

    @model_validator(mode="after")
    def _has_its_judge(self) -> "Evaluate":
        if self.judge is None and (self.gate.judged or "judge_win_rate" in self.metrics):
            raise ValueError("`judge_win_rate` needs a `judge`: {model: NAME}")
        if self.judge is not None and self.answers == 0:
            raise ValueError("`judge` compares answers, and `answers: 0` asks for none")
        return self

    @model_validator(mode="after")
    def _schema_refers_to_itself(self) -> "Evaluate":
        """What a schema names elsewhere would be fetched: a file of the server, an address of its network."""
        for target in _names(self.answer_schema, ("$ref", "$dynamicRef", "$recursiveRef")):
            if not target.startswith("#"):
                raise ValueError(
                    f"`answer_schema` refers to {target[:80]!r}; it may refer to parts of itself (#...) only"
                )
        return self


def _names(value: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """The texts that stand under these keys, at any depth."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            yield from (member for key, member in item.items() if key in keys and isinstance(member, str))
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)


class Register(Record):
    """A run becomes a version in the registry."""

    family: Family = Field("fine-tuned", description="family of the model in the registry")
    name: str | None = Field(None, description="default: the recipe's name", pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")
    specialization: str | None = Field(None, description="what the model is a specialist for, such as legal")


class Deploy(Record):
    """A version becomes an endpoint."""

    replicas: int = Field(1, ge=1, le=64, description="processes that serve the model")
    max_concurrent: int = Field(64, ge=1, description="requests that one replica works on at a time")
    max_queued: int = Field(128, ge=1, description="requests that may wait; more are refused with status 429")
    only: Literal["promoted"] | None = Field(
        None, description="promoted: leave what is served as it is when the version's gate did not pass"
    )
    use: Literal["any", "commercial"] | None = Field(
        None,
        description="what the model is served for; licences that forbid it refuse the deployment; unset: the use that"
        " its dataset was prepared for (`prepare.license.use`)",
    )
    filter: Literal["standard"] | ContentFilter | None = Field(
        None,
        description="checks of what is asked and answered; standard: secrets and personal data are masked, instructions"
        " to set aside others, self-harm, violence and sexual content about minors blocked; unset: nothing is checked",
    )
    watermark: bool = Field(
        False, description="mark generated text (SynthID), where it is sampled: POST /api/watermark/detect finds it"
    )
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the requests to the model's name, without a version, that this version answers; the"
        " others go to the deployed version before. Below 1 it is watched, and goes back by itself where it is worse",
    )

    @property
    def is_canary(self) -> bool:
        """Whether a part of the requests only is to come to this version."""
        return self.share < 1

    @property
    def content_filter(self) -> ContentFilter | None:
        """The filter's checks; None where nothing is checked."""
        return ContentFilter() if self.filter == "standard" else self.filter


class Recipe(Record):
    """A workflow. The headings present are the stages that run; `dataset` or `run` stands in for earlier ones."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$", description="name of what the workflow makes")
    domain: str | None = Field(None, description="specialisation whose defaults apply")
    collect: tuple[Source, ...] | None = None
    documents: tuple[str, ...] = Field(
        (), description="ids of documents collected before, instead of `collect`", json_schema_extra=ARTIFACT
    )
    prepare: Prepare | None = None
    dataset: str | None = Field(
        None, description="id of a prepared dataset, instead of `collect` and `prepare`", json_schema_extra=ARTIFACT
    )
    embed: Embed | None = None
    train: Train | None = None
    sweep: Sweep | None = Field(None, description="`train` becomes several trainings, of which the best is taken")
    auto: Auto | None = Field(None, description="the settings of `train` are chosen within a time, by validation loss")
    federate: Federate | None = Field(
        None, description="`train` happens at sites that keep their data; only updates of the adapter leave them"
    )
    run: str | None = Field(
        None, description="a training run, or the model made of one, instead of `train`", json_schema_extra=RUN
    )
    compress: Compress | None = Field(None, description="the model of `run` becomes one with smaller weights")
    evaluate: Evaluate | None = None
    register_: Register | None = Field(None, alias="register")
    version: str | None = Field(
        None,
        description="a registered model, or the run it was made of, instead of `register`",
        json_schema_extra=VERSION,
    )
    deploy: Deploy | None = None

    @model_validator(mode="before")
    @classmethod
    def _searches_steps(cls, values: Any) -> Any:
        """What trials and sites differ in or exchange is learnt by steps, unless a head is named."""
        if isinstance(values, Mapping) and isinstance(train := values.get("train"), Mapping):
            is_open = train.get("head", "auto") == "auto" and train.get("task") == "text_classification"
            if is_open and (values.get("sweep") or values.get("federate")):
                return {**values, "train": {**train, "head": "network"}}
        return values

    @model_validator(mode="after")
    def _stages_have_what_they_need(self) -> "Recipe":
        needs = {
            "prepare": ("collect", self.prepare, self.collect or self.documents),
            "embed": ("prepare", self.embed, self.prepare or self.dataset),
            "train": ("prepare", self.train, self.prepare or self.dataset or self.federate),
            "compress": ("register", self.compress, self.run),
            "evaluate": ("train", self.evaluate, self.train or self.run),
            "register": ("train", self.register_, self.train or self.run),
            "deploy": ("register", self.deploy, self.register_ or self.version),
        }
        for stage, (before, declared, available) in needs.items():
            if declared is not None and not available:
                raise ValueError(f"`{stage}` needs `{before}` before it (or the id of what it makes)")
        if self.compress is not None and self.train is not None:
            raise ValueError("`compress` takes a registered model by `run`; it does not go together with `train`")
        if self.sweep is not None and self.train is None:
            raise ValueError("`sweep` needs `train` beside it: what all trials share")
        if self.auto is not None and (self.train is None or self.sweep is not None):
            raise ValueError("`auto` needs `train` beside it, and no `sweep`")
        self._check_federation()
        if self.sweep is not None and self.train is not None and (mistakes := mistakes_in(self.sweep, self.train)):
            raise ValueError("; ".join(f"sweep: {mistake}" for mistake in mistakes))
        if all(declared is None for _, declared, _ in needs.values()) and self.collect is None:
            raise ValueError(f"no stage is named; known: collect, {', '.join(needs)}")
        return self

    def _check_federation(self) -> None:
        if self.federate is None:
            return
        if self.train is None or self.sweep is not None or self.auto is not None:
            raise ValueError("`federate` needs `train` beside it, and neither `sweep` nor `auto`")
        if self.evaluate is not None and not (self.dataset or self.prepare):
            raise ValueError("`evaluate` after `federate` needs a `dataset` of this home's own: sites keep theirs")
        for mistake in mistakes_of_federation(self.federate, self.train):
            raise ValueError(mistake)


RENAMED_KEYS: Mapping[str, Mapping[str, str]] = {
    "prepare": {"licences": "license"},
    "train": {"recompute": "activation_checkpointing"},
}
"""Heading -> former key -> current key. Recipes have to use the current key; the error for a former one names it.
Stored recipes are read with either (`with_current_keys`). Artifact ids hash the former keys (`hash_input`), so that
what was made before the change is found again."""


FORMER_DEFAULT_BASE = "builtin/tiny"
"""What stood in `base_model` when models from random weights had no empty one: their ids hash it."""

ADDED_KEYS: Mapping[str, tuple[str, ...]] = {
    "prepare": ("pairs", "max_characters"),
    "train": ("template_gaps", "augment", "head"),
    "evaluate": ("examples", "answers", "answer_schema", "max_error", "judge", "red_team", "workers", "tries"),
}
"""Heading -> keys that came after artifacts were made without them: hashed only where they differ from their default,
so that what was made before them is found again."""


def hash_input(heading: str, declared: Record) -> dict[str, Any]:
    """What a heading declares, as the id of its artifact hashes it and the manifest's `made_from` stores it."""
    former = {current: key for key, current in RENAMED_KEYS.get(heading, {}).items()}
    defaults = {key: type(declared).model_fields[key].default for key in ADDED_KEYS.get(heading, ())}
    if heading == "train":
        defaults["head"] = "network"  # what every training had before there was a choice
    values = {
        former.get(key, key): value
        for key, value in declared.model_dump(mode="json").items()
        if key not in defaults or getattr(declared, key) != defaults[key]
    }
    if heading == "train" and not values["base_model"]:
        values["base_model"] = FORMER_DEFAULT_BASE
    return values


def with_current_keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A stored recipe with every former key replaced by the current one."""
    return {
        heading: {RENAMED_KEYS[heading].get(key, key): value for key, value in content.items()}
        if heading in RENAMED_KEYS and isinstance(content, Mapping)
        else content
        for heading, content in recipe.items()
    }
