"""The part of a model card that says how sites trained the model together."""

import re
from typing import Any

from soldiom_ray.domains.federation import FEDERATION
from soldiom_ray.records import Manifest


def federation_section(run: Manifest) -> str:
    """Markdown; "" for a run that was trained in one place."""
    made: dict[str, Any] | None = run.details.get(FEDERATION)
    if made is None:
        return ""
    *rounds, measured = made["rounds"]
    joined = {
        "mean": f"their mean, weighed by {'samples' if made['weighting'] == 'samples' else 'site'}",
        "trimmed_mean": f"their trimmed mean, which withstands {made['harmful']} harmful site(s)",
        "krum": f"the one that Krum chose, which withstands {made['harmful']} harmful site(s)",
    }[made["aggregation"]]
    way = f"FedProx, mu {made['mu']:g}" if made["algorithm"] == "fedprox" else "FedAvg"
    lines = [
        "## Federation\n",
        f"{len(measured['sites'])} sites trained it in {len(rounds)} round(s) on data that stayed with"
        f" them ({way}); only updates of the adapter, numbers of samples and validation losses left them"
        + (", masked so that the coordinator saw sums over sites alone" if made.get("secure_aggregation") else "")
        + f". What is added in a round is {joined}"
        + (f"; longer ones were shortened to norm {made['clip_norm']:g}." if made["clip_norm"] else "."),
        "",
        "| round | validation loss before | updates used | late or missing |",
        "|---|---|---|---|",
    ]
    for record in made["rounds"]:
        missing = [f"{name}: {state}" for name, state in record["sites"].items() if state != "came"]
        loss = record["validation_loss"]
        lines.append(
            f"| {'result' if record is measured else record['round']} | {'' if loss is None else format(loss, '.4f')}"
            f" | {len(record['used'])} | {_cell('; '.join(missing))} |"
        )
    return "\n".join(lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")[:500]
