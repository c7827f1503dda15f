"""Counters of the service in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
FACTORS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
ENGINE = {
    "slots": "Clips whose codes can be written at a time, of all language models.",
    "in_use": "Slots in use.",
    "waiting": "Clips that wait for a slot.",
    "frames": "Code frames written since the language models started.",
    "frames_per_second": "Code frames written per second in which the language models were busy.",
    "refused": "Clips refused because too many were waiting.",
    "cancelled": "Clips whose listeners went away.",
}


class Metrics:
    """What one ingress has seen, and what the language models tell."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("ssmttm_requests", "Requests answered.", labels, registry=self._registry)
        self._music = Counter("ssmttm_music_seconds", "Seconds of music made.", registry=self._registry)
        self._lost = Counter("ssmttm_lost_clips", "Clips that broke off.", registry=self._registry)
        self.in_flight = Gauge("ssmttm_in_flight", "Clips being answered.", registry=self._registry)
        self._first_audio = Histogram(
            "ssmttm_first_audio_seconds", "From a request to its first audio.", buckets=SECONDS, registry=self._registry
        )
        self._factor = Histogram(
            "ssmttm_real_time_factor",
            "Seconds of music per second, waiting included.",
            buckets=FACTORS,
            registry=self._registry,
        )
        self._jobs = Gauge("ssmttm_jobs", "Jobs that are remembered.", ("state",), registry=self._registry)
        self._engine = {
            name: Gauge(f"ssmttm_engine_{name}", text, registry=self._registry) for name, text in ENGINE.items()
        }

    def answered(self, method: str, route: str, status: int) -> None:
        self._requests.labels(method, route, str(status)).inc()

    def heard(self, wait_s: float) -> None:
        """The first audio of a clip."""
        self._first_audio.observe(wait_s)

    def made(self, seconds: float, wall_s: float) -> None:
        """A whole clip."""
        self._music.inc(seconds)
        self._factor.observe(seconds / wall_s)

    def lost(self) -> None:
        self._lost.inc()

    def text(self, engines: list[dict[str, float]], jobs: dict[str, int]) -> bytes:
        """All of it, with the engines' counters added up."""
        for name, gauge in self._engine.items():
            gauge.set(sum(engine[name] for engine in engines))
        for state, count in jobs.items():
            self._jobs.labels(state).set(count)
        return generate_latest(self._registry)
