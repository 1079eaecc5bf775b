"""The status as observable gauges of OpenTelemetry: ``pip install 'privkit[opentelemetry]'``.

observe(privacy, engine)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter
from sqlalchemy import Engine

from privkit.integrations.metrics import NAMES, Watched
from privkit.privacy import Privacy


def observe(privacy: Privacy, engine: Engine, *, meter: Meter | None = None, max_age: float = 300) -> None:
    """Create the gauges of one database's status, which is read again when it is ``max_age`` seconds old.

    ``meter``: default, the global provider's. Where the status cannot be read, ``privkit_up`` is 0 and there are no
    other numbers.
    """
    watched, meter = Watched(privacy, engine, max_age), meter or get_meter("privkit")
    for name, help in NAMES.items():
        unit = "s" if name.endswith("_seconds") else "1"
        meter.create_observable_gauge(name, callbacks=[_reader(watched, name)], unit=unit, description=help)


def _reader(watched: Watched, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(options: CallbackOptions) -> Iterable[Observation]:
        for gauge in watched.gauges():
            if gauge.name == name:
                for values, value in gauge.samples:
                    yield Observation(value, dict(zip(gauge.labels, values, strict=True)))

    return read
