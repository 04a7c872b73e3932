"""Counts and durations for Prometheus (text exposition format 0.0.4): of requests, and of the answers of models."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
Elsewhere = Sequence[tuple[Mapping[str, object], int]]
"""(labels, count) of the same metric in other processes."""
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")


class Histogram:
    """Seconds by labels, cumulative by bucket."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._within: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS) + 1))
        self._sums: defaultdict[str, float] = defaultdict(float)

    def observe(self, labels: Mapping[str, object], seconds: float) -> None:
        """Count one duration."""
        key = _labels(labels)
        for place, bound in enumerate((*BUCKETS, float("inf"))):
            self._within[key][place] += seconds <= bound
        self._sums[key] += seconds

    def lines(self) -> Iterator[str]:
        """In the exposition format."""
        yield from _head(self.name, self.text, "histogram")
        for key, counts in sorted(self._within.items()):
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                yield f'{self.name}_bucket{{{key},le="{bound}"}} {count}'
            yield f"{self.name}_sum{{{key}}} {self._sums[key]:.6f}"
            yield f"{self.name}_count{{{key}}} {counts[-1]}"


class Count:
    """A number by labels that only grows."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._counts: Counter[str] = Counter()

    def add(self, labels: Mapping[str, object], number: int = 1) -> None:
        """Count so many."""
        self._counts[_labels(labels)] += number

    def lines(self, elsewhere: Elsewhere = ()) -> Iterator[str]:
        """In the exposition format, with what other processes have counted."""
        yield from _head(self.name, self.text, "counter")
        yield from (f"{self.name}{{{key}}} {count}" for key, count in sorted(self._counts.items()))
        yield from (f"{self.name}{{{_labels(labels)}}} {count}" for labels, count in elsewhere)


class RequestMetrics:
    """Requests by method, route and status (routes are templates, so there are few series), and answers by the model's
    id: there are as many as models are deployed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = Count("soldiom_requests_total", "Requests answered.")
        self._seconds = Histogram("soldiom_request_seconds", "Duration of requests.")
        self._answers = Histogram("soldiom_answer_seconds", "Duration of whole answers of models.")
        self._first_tokens = Histogram("soldiom_first_token_seconds", "Time to the first text of a streamed answer.")
        self._tokens = Count("soldiom_tokens_total", "Tokens of prompts and completions.")
        self._filtered = Count("soldiom_filter_total", "What content filters found, by what was done.")
        self._feedback = Count("soldiom_feedback_total", "Ratings of answers, each change of one anew.")

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        label = method if method in METHODS else "other"
        with self._lock:
            self._requests.add({"method": label, "route": route, "status": status})
            self._seconds.observe({"route": route}, seconds)

    def answered(self, model_id: str, seconds: float, usages: Sequence[Mapping[str, int]]) -> None:
        """Count the answers that one request got from a model, by what each used."""
        with self._lock:
            self._answers.observe({"model": model_id}, seconds)
            for usage in usages:
                for kind in ("prompt", "completion"):
                    self._tokens.add({"model": model_id, "kind": kind}, int(usage.get(f"{kind}_tokens", 0)))

    def began(self, model_id: str, seconds: float) -> None:
        """Count how long a streamed answer took to its first text."""
        with self._lock:
            self._first_tokens.observe({"model": model_id}, seconds)

    def filtered(self, model_id: str, decisions: Sequence[Mapping[str, str]]) -> None:
        """Count what a model's content filter has found; each has `category`, `side` and `action`."""
        with self._lock:
            for each in decisions:
                labels = {name: each[name] for name in ("category", "side", "action")}
                self._filtered.add({"model": model_id, **labels})

    def rated(self, model_id: str, rating: str) -> None:
        """Count what a user said of an answer."""
        with self._lock:
            self._feedback.add({"model": model_id, "rating": rating})

    def text(self, *, of_models: bool = True, batches: Mapping[str, Elsewhere] = MappingProxyType({})) -> str:
        """The metrics in the exposition format: all, or only those of requests. What `batches` add to the metrics
        "tokens" and "filter" has the label `door`."""
        from_batches = {
            metric: [({**labels, "door": "batch"}, count) for labels, count in rows] for metric, rows in batches.items()
        }
        with self._lock:
            lines = [*self._requests.lines(), *self._seconds.lines()]
            if of_models:
                lines += [*self._answers.lines(), *self._first_tokens.lines()]
                lines += [*self._tokens.lines(from_batches.get("tokens", ()))]
                lines += [*self._filtered.lines(from_batches.get("filter", ())), *self._feedback.lines()]
        return "\n".join(lines) + "\n"


def device_seconds_text(seconds: Mapping[str, float]) -> str:
    """What jobs used, by their kind, in the exposition format."""
    name = "soldiom_device_seconds_total"
    lines = [*_head(name, "Seconds for which jobs held a device, by the kind of job.", "counter")]
    lines += [f"{name}{{{_labels({'kind': kind})}}} {value:.3f}" for kind, value in sorted(seconds.items())]
    return "\n".join(lines) + "\n"


def drift_text(models: Mapping[str, bool]) -> str:
    """Of each served model that is compared with its training set, whether its questions differ."""
    name = "soldiom_inputs_differ"
    lines = [*_head(name, "1 where the questions to a model were found to differ from its training set.", "gauge")]
    lines += [f"{name}{{{_labels({'model': model})}}} {int(differs)}" for model, differs in sorted(models.items())]
    return "\n".join(lines) + "\n"


def going_back_text(versions: Mapping[str, datetime | None]) -> str:
    """Of each version that went back by itself when it did, and of each that is on the way that it is."""
    ended, under_way = "soldiom_version_went_back_time_seconds", "soldiom_version_goes_back"
    lines = [*_head(ended, "When a version of a model went back by itself, in seconds since 1970.", "gauge")]
    lines += [f"{ended}{{{_labels({'model': m})}}} {at.timestamp():.0f}" for m, at in versions.items() if at]
    lines += [*_head(under_way, "1 where a version of a model is going back by itself.", "gauge")]
    lines += [f"{under_way}{{{_labels({'model': m})}}} 1" for m, at in versions.items() if at is None]
    return "\n".join(lines) + "\n"


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: Mapping[str, object]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())
