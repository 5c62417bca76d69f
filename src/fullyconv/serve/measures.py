"""What the service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

__all__ = ["CONTENT_TYPE", "Measures"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Measures:
    """Counters of one service, in a registry of their own.

    Attributes:
        requests: Answers, by route and status.
        seconds: From the head of a request to its answer, by route.
        computing: Seconds that a batch was computed.
        batch: Images of a batch.
        waiting: Requests that are answered or wait.
        pixels: That were segmented.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "fullyconv_requests_total", "Answers.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "fullyconv_request_seconds",
            "From the head of a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.computing = Histogram(
            "fullyconv_compute_seconds", "Of a batch.", buckets=_SECONDS, registry=self.registry
        )
        self.batch = Histogram(
            "fullyconv_batch_images", "Images of a batch.", buckets=(1, 2, 4, 8), registry=self.registry
        )
        self.waiting = Gauge(
            "fullyconv_waiting_requests", "Requests that are answered or wait.", registry=self.registry
        )
        self.pixels = Counter("fullyconv_pixels_total", "Pixels that were segmented.", registry=self.registry)

    def shown(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
