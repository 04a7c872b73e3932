"""A training's curves as a picture."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = {"train_loss": ("training", "#3b6ea5"), "validation_loss": ("validation", "#e0a030")}
METRIC_COLORS = ("#b5493a", "#5a8f4e", "#7b5ea7", "#4c9aa8")
GREY = "#8a8a8a"


def draw(curves: Sequence[Mapping[str, float]], best_step: int | None = None) -> bytes:
    """A PNG: losses over tokens, the best validation marked; below, the task's metrics where there are any, and the
    learning rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    named = {key for point in curves for key in point}
    metrics = sorted(key for key in named if key.startswith("validation_") and key not in LOSSES)
    heights = [3.2, *([1.6] if metrics else []), 0.8]
    figure = Figure(figsize=(7.0, sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    _losses(panels[0], curves, best_step)
    if metrics:
        _metrics(panels[1], curves, metrics)
    _line(panels[-1], curves, "learning_rate", "learning rate", GREY)
    panels[-1].set_ylabel("learning rate", fontsize=7)
    panels[-1].set_xlabel("training tokens")
    panels[-1].set_ylim(bottom=0)
    panels[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
        axes.set_xlim(left=0)
    return _png(figure)


def _losses(axes: "Axes", curves: Sequence[Mapping[str, float]], best_step: int | None) -> None:
    for key, (label, color) in LOSSES.items():
        _line(axes, curves, key, label, color)
    best = next((point for point in curves if point["step"] == best_step and "validation_loss" in point), None)
    if best:
        axes.plot(best["tokens"], best["validation_loss"], "o", color=LOSSES["validation_loss"][1], markersize=7)
        where, text = (best["tokens"], best["validation_loss"]), f"{best['validation_loss']:.3f}"
        axes.annotate(text, where, xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8)
    axes.set_ylabel("loss")
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8)


def _metrics(axes: "Axes", curves: Sequence[Mapping[str, float]], keys: Sequence[str]) -> None:
    for number, key in enumerate(keys):
        name = key.removeprefix("validation_").replace("_", " ")
        _line(axes, curves, key, name, METRIC_COLORS[number % len(METRIC_COLORS)])
    axes.set_ylabel("validation")
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8)


def _line(axes: "Axes", curves: Sequence[Mapping[str, float]], key: str, label: str, color: str) -> None:
    points = [(point["tokens"], point[key]) for point in curves if key in point]
    marker = "." if len(points) <= 24 else ""
    if points:
        axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker)


def _png(figure: "Figure") -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110, metadata={"Software": None})
    return sink.getvalue()
