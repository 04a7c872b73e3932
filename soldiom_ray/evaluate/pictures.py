"""The pictures of a report, as PNG, from what `scores.json` holds."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from soldiom_ray.domains.metrics import METRICS, title_of
from soldiom_ray.metrics.measurement import BASE, PREVIOUS, TUNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYSTEMS, SLICES = "systems.png", "slices.png"
CONFUSION, CALIBRATION, ANSWERS = "confusion.png", "calibration.png", "answers.png"
TUNED_COLOR, BASE_COLOR, OTHER_COLOR, GREY = "#b5493a", "#3b6ea5", "#e0a030", "#8a8a8a"
COLORS = {TUNED: TUNED_COLOR, BASE: BASE_COLOR, PREVIOUS: "#5a8f4e"}
MAX_PANELS, MAX_COUNTED_CLASSES, MAX_SLICE_ROWS = 9, 20, 24


def draw_pictures(content: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files by name: those that the scores have something for."""
    pictures = {}
    if content["metrics"]:
        pictures[SYSTEMS] = _systems(content)
    labels = content.get("labels") or {}
    if len(labels.get("confusion") or ()) > 1:
        pictures[CONFUSION] = _confusion(labels["names"], labels["confusion"])
    if labels.get("reliability"):
        pictures[CALIBRATION] = _calibration(labels["reliability"])
    if content["slices"]:
        pictures[SLICES] = _slices(content["slices"][:MAX_SLICE_ROWS])
    judged = content["answers"]
    if judged and judged["better"] is not None:
        pictures[ANSWERS] = _answers(judged)
    return pictures


def _systems(content: Mapping[str, Any]) -> bytes:
    """Of each metric a panel of its own scale: every system's value and interval, the tuned model on top."""
    shown = content["metrics"][:MAX_PANELS]
    names = [*dict.fromkeys(system for by_metric in content["system_intervals"].values() for system in by_metric)]
    names.sort(key=lambda name: (TUNED, BASE, PREVIOUS, name).index(name))  # the others stay in their order
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = _figure(2.45 * columns + 1.1, rows * (0.5 + 0.24 * len(names)) + 0.3)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, metric in zip(panels, shown, strict=False):
        intervals = content["system_intervals"][metric]
        for place, system in enumerate(names):
            if system in intervals:
                each, color = intervals[system], COLORS.get(system, OTHER_COLOR)
                axes.plot([each["low"], each["high"]], [-place, -place], color=color, linewidth=2, alpha=0.55)
                axes.plot(each["mean"], -place, "o", color=color, markersize=5)
        better = "lower" if METRICS[metric].lower_is_better else "higher"
        axes.set_title(f"{title_of(metric)}, {better} is better", fontsize=8, loc="left")
        axes.set_yticks([-place for place in range(len(names))])
        first_column = axes.get_subplotspec().is_first_col()
        axes.set_yticklabels([_short(name) for name in names] if first_column else [""] * len(names), fontsize=7)
        axes.set_ylim(-len(names) + 0.4, 0.6)
        axes.grid(axis="x", linewidth=0.4, color="#dddddd")
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    return _png(figure)


def _confusion(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> bytes:
    """Rows are the true labels; the shade is the share of the row."""
    import numpy as np

    counts = np.array(matrix)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    size = max(3.0, min(9.0, 0.5 * len(names) + 1.8))
    figure = _figure(size + 0.8, size)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size_of_names = 7 if len(names) <= MAX_COUNTED_CLASSES else 5.5
    if len(names) <= MAX_COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.55 else "#333333"
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=color)
    short = [_short(name, 16) for name in names]
    upright = {"rotation": 45, "ha": "right"} if len(names) <= MAX_COUNTED_CLASSES else {"rotation": 90}
    axes.set_xticks(range(len(names)), short, **upright)
    axes.set_yticks(range(len(names)), short)
    axes.set_xlabel("predicted", fontsize=8)
    axes.set_ylabel("true", fontsize=8)
    return _png(figure, size_of_names)


def _calibration(bins: Sequence[Mapping[str, float]]) -> bytes:
    """The share that is right over the confidence; below the line the model is surer than it should be."""
    figure = _figure(4.2, 3.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence = [each["confidence"] for each in bins]
    above.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    above.plot(confidence, [each["accuracy"] for each in bins], "o-", color=TUNED_COLOR, markersize=4)
    above.set_ylabel("share right", fontsize=8)
    above.set_ylim(-0.03, 1.03)
    below.bar(confidence, [each["count"] for each in bins], width=0.03, color=GREY)
    below.set_ylabel("samples", fontsize=8)
    below.set_xlabel("confidence", fontsize=8)
    below.set_xlim(0, 1.02)
    return _png(figure)


def _slices(slices: Sequence[Mapping[str, Any]]) -> bytes:
    """The tuned model's difference from its base on each slice, one panel for each metric."""
    metrics = list(dict.fromkeys(each["metric"] for each in slices))
    by_metric = [[each for each in slices if each["metric"] == metric] for metric in metrics]
    figure = _figure(7.4, sum(0.6 + 0.24 * len(chosen) for chosen in by_metric) + 0.2)
    heights = [len(chosen) + 1.2 for chosen in by_metric]
    panels = figure.subplots(len(metrics), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, metric, chosen in zip(panels, metrics, by_metric, strict=True):
        for place, each in enumerate(chosen):
            low, high = each["difference"]["low"], each["difference"]["high"]
            axes.plot([low, high], [-place, -place], color=BASE_COLOR, linewidth=2, alpha=0.55)
            axes.plot(each["difference"]["mean"], -place, "o", color=BASE_COLOR, markersize=5)
        axes.axvline(0, color=GREY, linewidth=0.8)
        names = [f"{each['fact']}: {_short(each['value'])} ({each['samples']})" for each in chosen]
        axes.set_yticks([-place for place in range(len(chosen))], names, fontsize=7)
        axes.set_ylim(-len(chosen) + 0.4, 0.6)
        better = "left" if METRICS[metric].lower_is_better else "right"
        axes.set_title(f"{title_of(metric)}, tuned minus base (better to the {better})", fontsize=8, loc="left")
    return _png(figure)


def _answers(judged: Mapping[str, Any]) -> bytes:
    """Every answer as a point: how close the base's came to the author's, and how close the tuned model's."""
    figure = _figure(4.4, 4.0)
    axes = figure.subplots()
    points = [(each["scores"][BASE], each["scores"][TUNED]) for each in judged["answers"]]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    axes.plot(*zip(*points, strict=True), "o", color=TUNED_COLOR, markersize=5, alpha=0.6, markeredgewidth=0)
    axes.set_xlabel(f"base, {title_of(judged['metric'])}", fontsize=8)
    axes.set_ylabel(f"tuned, {title_of(judged['metric'])}", fontsize=8)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_title(f"above the line: better ({judged['better']} of {judged['count']})", fontsize=8, loc="left")
    return _png(figure)


def _short(name: str, characters: int = 30) -> str:
    """One line, and no sign that matplotlib would read as a formula."""
    text = " ".join(str(name).split()).replace("$", r"\$")
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: "Figure", size_of_names: float = 7) -> bytes:
    for axes in figure.axes:
        _plain(axes, size_of_names)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=130, metadata={"Software": None})
    return sink.getvalue()


def _plain(axes: "Axes", size_of_names: float) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=size_of_names)
