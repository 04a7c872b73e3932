"""The recipe's heading `federate`: several sites train one adapter, and each keeps its data."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from soldiom_ray.domains.references import SITE
from soldiom_ray.records import Record

FEDERATION = "federation"
"""Key of a run's details that says how sites trained it, and of a dataset's that stands for those of sites: site ->
samples."""
FEDERATED_TASKS = ("causal_lm", "seq2seq_lm", "text_classification")

Aggregation = Literal["mean", "trimmed_mean", "krum"]
Weighting = Literal["samples", "equal"]


class Federate(Record):
    """`train` becomes rounds of trainings at sites; `train.epochs` are the passes of a site over its data per round."""

    sites: tuple[str, ...] = Field(
        (),
        max_length=256,
        description="names of sites (`soldiom site list`), or homes of sites on this machine; --sites of the command",
        json_schema_extra=SITE,
    )
    rounds: int = Field(5, ge=1, le=1000, description="how often sites train and their updates are joined")
    algorithm: Literal["fedavg", "fedprox"] = Field(
        "fedavg", description="fedprox: a site's weights are held near those it began a round with (Li et al. 2020)"
    )
    mu: float = Field(0.01, gt=0, allow_inf_nan=False, description="fedprox: how strongly they are held")
    weighting: Weighting = Field("samples", description="what a site's update weighs: by its samples, or all the same")
    aggregation: Aggregation = Field(
        "mean",
        description="how updates are joined; trimmed_mean and krum withstand sites that send harmful ones (Yin et al."
        " 2018, Blanchard et al. 2017) and weigh all the same",
    )
    harmful: int = Field(1, ge=1, description="trimmed_mean, krum: how many sites may send harmful updates")
    secure_aggregation: bool = Field(
        False,
        description="sites mask their updates, so that the coordinator sees the sum alone (Bonawitz et al. 2017);"
        " three sites or more, of which more than half must stay to the end of a round",
    )
    clip_norm: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="a longer update is shortened to this norm; unset: none is"
    )
    min_sites: int = Field(2, ge=1, description="a round with fewer updates fails")
    round_seconds: float = Field(
        3600.0, gt=0, allow_inf_nan=False, description="how long a round waits for sites that are late"
    )
    labels: tuple[str, ...] = Field(
        (), description="text_classification: all labels, which no single site may have seen"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Federate":
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("`sites` names a site twice")
        if self.sites and self.min_sites > len(self.sites):
            raise ValueError(f"`min_sites` is {self.min_sites}, more than there are `sites` ({len(self.sites)})")
        if self._is_changed("mu") and self.algorithm != "fedprox":
            raise ValueError("`mu` belongs to `algorithm: fedprox`")
        if self._is_changed("harmful") and self.aggregation == "mean":
            raise ValueError("`harmful` belongs to `aggregation: trimmed_mean` or `krum`")
        if self.secure_aggregation and self.aggregation != "mean":
            raise ValueError(
                f"`aggregation: {self.aggregation}` compares single updates, which `secure_aggregation` hides"
            )
        needed = {"mean": 1, "trimmed_mean": 2 * self.harmful + 1, "krum": 2 * self.harmful + 3}[self.aggregation]
        if self.min_sites < needed:
            raise ValueError(
                f"`aggregation: {self.aggregation}` with `harmful: {self.harmful}` needs `min_sites: {needed}`"
            )
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("`labels` names a label twice")
        return self

    def _is_changed(self, name: str) -> bool:
        """Whether a field has another value than its default, which a stored recipe names too."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


def mistakes_of_federation(federate: Federate, train: Record) -> Iterator[str]:
    """What of a training, the heading `train`, cannot be done at sites."""
    values = train.model_dump(include={"method", "quantization", "task", "workers", "strategy", "max_tokens"})
    method, task = values["method"], values["task"]
    if method != "lora" or values["quantization"] != "none":
        yield f"`federate` exchanges LoRA adapters beside whole weights: no `method: {method}`, no `quantization`"
    if task not in FEDERATED_TASKS:
        yield f"`federate` knows the tasks {', '.join(FEDERATED_TASKS)}, not {task}"
    if task == "text_classification" and len(federate.labels) < 2:
        yield "`federate.labels` must name all labels of `task: text_classification`: no single site need have seen all"
    if task != "text_classification" and federate.labels:
        yield "`federate.labels` belongs to `task: text_classification`"
    if values["workers"] > 1 or values["strategy"] not in ("auto", "single") or values["max_tokens"] is not None:
        yield "`federate` trains `train.epochs` per round with one worker at each site: no `max_tokens`, no `strategy`"
