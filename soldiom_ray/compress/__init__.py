"""compress: a registered model's run becomes another run, with the same weights in fewer bits."""

import tempfile
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Compress
from soldiom_ray.domains.tasks import CAUSAL_LM
from soldiom_ray.errors import InputError
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.records import Manifest

STAGE_VERSION = 1
KEPT_DETAILS = ("task", "auto_class", "configuration", "sequence_length", "prompt_format", "template_gaps")
"""What holds of the compressed run as of the one that it was made of."""


def compress(context: Context, run: Manifest, declared: Compress) -> Manifest:
    """Write a run's model with its weights in fewer bits, an adapter merged first, sign it, and measure both where the
    engine multiplies with such weights.

    The same run in the same format is compressed once. InputError for a run that was compressed before, does not
    generate text token by token, holds a tuned prompt, or is of an architecture that the format is not for."""
    check_compressible(run)
    made_from = {"declared": declared.model_dump(mode="json"), "run": run.id, "code": STAGE_VERSION}
    draft = context.artifacts.draft("run", made_from, (run.parents[0], run.id))
    if (done := draft.finished()) is not None:
        return done

    from soldiom_ray.compress.formats import FORMATS
    from soldiom_ray.compress.measure import compare_engines
    from soldiom_ray.models.adapters import merged
    from soldiom_ray.models.load import load_model, load_run
    from soldiom_ray.models.signing import SIGNATURE, sign_weights

    format_ = FORMATS[declared.to]
    context.report(0.05, f"loading the model of {run.id}")
    with (
        load_run(context.artifacts, context.settings, run) as (model, tokenizer),
        tempfile.TemporaryDirectory(prefix="soldiom-") as name,
    ):
        folder = Path(name)
        model = merged(model)
        format_.check(model)
        context.report(0.2, f"rounding the weights to {format_.bits} bits")
        before = sum(each.nbytes for each in model.parameters())
        format_.save(model, tokenizer, folder)
        context.report(0.5, "storing and signing the weights")
        draft.write_folder(folder, "weights")
        if (signature := sign_weights(context.settings, context.artifacts, draft.id, folder)) is not None:
            draft.write(SIGNATURE, signature)
        after = (folder / format_.file).stat().st_size
        measured = {}
        if format_.multiplied:
            context.report(0.7, "measuring the speed of both")
            measured = compare_engines((model, tokenizer), load_model(folder))
    details: dict[str, Any] = {name: run.details[name] for name in KEPT_DETAILS if name in run.details}
    details |= {"method": "full", "base_model": run.id}
    details["compression"] = {"to": declared.to, "file_bytes": {"before": before, "after": after}, **measured}
    context.report(1.0, f"{before / 1e6:.0f} MB became {after / 1e6:.0f} MB")
    return draft.commit(details=details)


def check_compressible(run: Manifest) -> None:
    """InputError for a run that cannot be compressed, as far as its manifest says."""
    task = str(run.details.get("task", CAUSAL_LM))
    if not TASK_MODELS[task].generates:
        raise InputError(
            f"The run {run.id} is a model for {task}; smaller formats are for models that continue texts.",
            remedy="serve it as it is",
        )
    if (before := run.details.get("compression")) is not None:
        raise InputError(
            f"The run {run.id} is compressed to {before['to']} already.",
            remedy=f"compress what it was made of: {run.details['base_model']}",
        )
    if run.details["method"] == "prompt":
        raise InputError(
            f"The run {run.id} holds a tuned prompt, which cannot become part of its base's weights.",
            remedy="train with `method: lora` or `full`",
        )
