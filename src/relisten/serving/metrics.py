"""The counters that `/metrics` gives to Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from relisten.types import Trace

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "relisten_requests",
            "Requests, by what they asked for and status",
            ["endpoint", "status"],
            registry=registry,
        )
        self.answers = Counter("relisten_answers", "Finished answers, by how they ended", ["finish"], registry=registry)
        self.tokens = Counter("relisten_tokens", "Tokens of finished answers", ["kind"], registry=registry)
        self.segments = Counter("relisten_segments", "Segments that were heard again", registry=registry)
        self.refusals = Counter(
            "relisten_refused_segments", "Segments that were not heard", ["reason"], registry=registry
        )
        self.audio = Counter("relisten_audio_seconds", "Seconds of recordings that were asked about", registry=registry)
        self.first = Histogram(
            "relisten_first_token_seconds", "From the request to its first text", buckets=_SECONDS, registry=registry
        )
        self.total = Histogram(
            "relisten_request_seconds", "From the request to its last answer", buckets=_SECONDS, registry=registry
        )
        for name, (text, value) in gauges.items():
            Gauge(f"relisten_{name}", text, registry=registry).set_function(value)

    def answered(self, trace: Trace) -> None:
        """Count a finished answer."""
        self.answers.labels(trace.finish).inc()
        inserted = sum(listen.num_tokens for listen in trace.listens[1:])
        self.tokens.labels("prompt").inc(trace.num_prompt)
        self.tokens.labels("audio").inc(inserted)
        self.tokens.labels("written").inc(max(len(trace.token_ids) - trace.num_prompt - inserted, 0))
        self.segments.inc(max(len(trace.listens) - 1, 0))
        for refusal in trace.refusals:
            self.refusals.labels(refusal.reason).inc()

    def text(self) -> bytes:
        """All counters, in the text form of Prometheus."""
        return bytes(generate_latest(self.registry))
