"""The status as a collector of prometheus_client: ``pip install 'privkit[metrics]'``.

REGISTRY.register(collector(privacy, engine))
start_http_server(9100)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from privkit.integrations.metrics import NAMES, Watched
from privkit.privacy import Privacy


def collector(privacy: Privacy, engine: Engine, *, max_age: float = 300) -> Collector:
    """Return a collector of one database's status, which is read again when it is ``max_age`` seconds old.

    Where it cannot be read, ``privkit_up`` is 0 and there are no other numbers.
    """
    return _Collector(Watched(privacy, engine, max_age))


class _Collector(Collector):
    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        for gauge in self._watched.gauges():
            family = GaugeMetricFamily(gauge.name, NAMES[gauge.name], labels=gauge.labels)
            for values, value in gauge.samples:
                family.add_metric(values, value)
            yield family

    def describe(self) -> Iterable[Metric]:
        """Without this a registry would read the status to learn its names."""
        return ()
