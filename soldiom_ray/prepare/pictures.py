"""The pictures of a dataset's card: how long samples are, and how many there are of each kind."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from soldiom_ray.prepare.card import COUNTS_PICTURE, LENGTHS_PICTURE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS, MIN_BARS = 12, 6
COLORS = {"train": "#3b6ea5", "validation": "#e0a030", "test": "#b5493a"}
BAR_COLOR = "#3b6ea5"


def draw_pictures(details: Mapping[str, Any], lengths: Mapping[str, Sequence[int]]) -> dict[str, bytes]:
    """PNG files by name. `lengths` are characters per sample, by split."""
    return {LENGTHS_PICTURE: _lengths(lengths), COUNTS_PICTURE: _counts(details)}


def _lengths(lengths: Mapping[str, Sequence[int]]) -> bytes:
    import numpy as np

    figure, (axes,) = _figure(1, 8.0, 3.2)
    longest = max((max(counts) for counts in lengths.values() if counts), default=1)
    shortest = min((min(counts) for counts in lengths.values() if counts), default=1)
    edges = np.geomspace(max(1, shortest), max(2, longest) * 1.01, 40)
    filled = [(split, counts) for split, counts in lengths.items() if counts]
    axes.hist(
        [counts for _, counts in filled],
        bins=edges.tolist(),
        stacked=True,
        color=[COLORS[split] for split, _ in filled],
        label=[f"{split} ({len(counts):,})" for split, counts in filled],
    )
    axes.set_xscale("log")
    axes.set_xlabel("characters per sample")
    axes.set_ylabel("samples")
    axes.legend(frameon=False)
    return _png(figure)


def _counts(details: Mapping[str, Any]) -> bytes:
    named = [("licences", "licenses"), ("kinds", "kinds"), ("languages", "languages"), ("left out", "drops")]
    figure, all_axes = _figure(len(named), 12.0, 3.6)
    for axes, (title, name) in zip(all_axes, named, strict=True):
        _bars(axes, title, details[name])
    return _png(figure)


def _bars(axes: "Axes", title: str, counts: Mapping[str, int]) -> None:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ordered[: MAX_BARS if len(ordered) <= MAX_BARS else MAX_BARS - 1]
    if len(ordered) > len(shown):
        shown.append((f"{len(ordered) - len(shown)} others", sum(count for _, count in ordered[len(shown) :])))
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name, _ in shown]
    bars = axes.barh(range(len(shown)), [count for _, count in shown], color=BAR_COLOR)
    axes.bar_label(bars, padding=2, fontsize=7)
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.set_ylim(max(len(shown), MIN_BARS) - 0.5, -0.5)
    axes.set_title(title, fontsize=9)
    axes.margins(x=0.2)


def _figure(columns: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A row of axes; sizes in inches. Without pyplot: no window system, no state that outlives the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, columns, squeeze=False)[0]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    return figure, list(all_axes)


def _png(figure: "Figure") -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110, metadata={"Software": None})
    return sink.getvalue()
