"""Request counts and durations for Prometheus (text exposition format 0.0.4)."""

import threading
from collections import Counter

BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)


class RequestMetrics:
    """Requests by method, route and status, and durations by route. Routes are templates, so there are few series."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._within: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._count: Counter[str] = Counter()

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        label = method if method in ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS") else "other"
        with self._lock:
            self._requests[label, route, status] += 1
            self._count[route] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]
            for bound in BUCKETS:
                self._within[route, bound] += seconds <= bound

    def text(self) -> str:
        """All metrics in the exposition format."""
        lines = ["# HELP soldiom_requests_total Requests answered.", "# TYPE soldiom_requests_total counter"]
        with self._lock:
            for (method, route, status), count in sorted(self._requests.items()):
                labels = f'method="{method}",route="{route}",status="{status}"'
                lines.append(f"soldiom_requests_total{{{labels}}} {count}")
            lines += [
                "# HELP soldiom_request_seconds Duration of requests.",
                "# TYPE soldiom_request_seconds histogram",
            ]
            for route in sorted(self._count):
                for bound in BUCKETS:
                    labels = f'route="{route}",le="{bound}"'
                    lines.append(f"soldiom_request_seconds_bucket{{{labels}}} {self._within[route, bound]}")
                lines.append(f'soldiom_request_seconds_bucket{{route="{route}",le="+Inf"}} {self._count[route]}')
                lines.append(f'soldiom_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}')
                lines.append(f'soldiom_request_seconds_count{{route="{route}"}} {self._count[route]}')
        return "\n".join(lines) + "\n"
