"""The status as metrics: a text file, a scrape of a real server, OpenTelemetry; names of rules and nothing else."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event

from privkit.errors import InvalidValue
from privkit.integrations.metrics import NAMES, Watched, text, write_textfile
from privkit.integrations.opentelemetry import observe
from privkit.integrations.prometheus import collector
from privkit.retention import Standing, Status
from tests.databases import raw_rows
from tests.sqlalchemy.rides import START, Clock, RideService, ride_service, rider

NAME = ("riders", "name", "account: P30D after account_closed")
Samples = dict[tuple[str, ...], float]


@pytest.fixture
def rides(sqlite_url: str, tmp_path: Path) -> RideService:
    """One rider whose name fell due on 31 December, and who was there before the only run."""
    service = ride_service(sqlite_url, tmp_path, Clock())
    service.sign_up(rider(1, email="planted@secret.example", closed_at=datetime(2025, 12, 1, 12), trips=[]))
    return service


def samples(exposed: str) -> Samples:
    """Every sample of a text, by its name and the values of its labels."""
    return {
        (
            sample.name,
            *(sample.labels[name] for name in ("table", "field", "rule") if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(exposed)
        for sample in family.samples
    }


def purge(service: RideService) -> None:
    assert service.privacy.purge(service.engine, service.privacy.plan(service.engine)).ok


def test_a_text_has_the_overdue_number_and_age_of_each_rule_and_no_value(rides: RideService) -> None:
    found = text(rides.privacy.status(rides.engine))
    read = samples(found)
    assert (read[("privkit_overdue_rows", *NAME)], read[("privkit_due_rows", *NAME)]) == (1, 1)
    assert read[("privkit_overdue_oldest_seconds", *NAME)] == 86400
    assert read[("privkit_up",)] == 1
    assert ("privkit_last_run_timestamp_seconds",) not in read
    assert "planted" not in found


def test_a_text_tells_of_the_last_run_and_the_last_proven_one(rides: RideService) -> None:
    purge(rides)
    read = samples(text(rides.privacy.status(rides.engine)))
    assert read[("privkit_last_run_timestamp_seconds",)] == START.timestamp()
    assert read[("privkit_last_proven_run_timestamp_seconds",)] == START.timestamp()
    assert (read[("privkit_last_run_ok",)], read[("privkit_run_duration_seconds",)]) == (1, 0)
    assert {name for name, *_ in read} == set(NAMES)


def test_names_with_quotes_and_backslashes_are_read_back_as_they_are() -> None:
    odd = Standing('a"b', "c\\d", "e\nf", 2, 1, START)
    read = samples(text(Status(START, START, (odd,), None, None)))
    assert read[("privkit_due_rows", 'a"b', "c\\d", "e\nf")] == 2


def test_a_text_file_appears_whole_is_readable_by_others_and_leaves_no_draft(
    rides: RideService, tmp_path: Path
) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    path = folder / "privkit.prom"
    path.write_text("old")
    write_textfile(rides.privacy.status(rides.engine), path)
    assert samples(path.read_text())[("privkit_overdue_rows", *NAME)] == 1
    assert (path.stat().st_mode & 0o777, [each.name for each in folder.iterdir()]) == (0o644, ["privkit.prom"])
    with pytest.raises(OSError, match="directory"):
        write_textfile(rides.privacy.status(rides.engine), folder)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_a_scrape_reads_what_a_status_reads(rides: RideService) -> None:
    registry = CollectorRegistry()
    registry.register(collector(rides.privacy, rides.engine, max_age=0))
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        with urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            exposed = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert samples(exposed) == samples(text(rides.privacy.status(rides.engine)))


def test_scrapes_within_the_age_run_no_statement_however_many_there_are(rides: RideService) -> None:
    watched, statements = Watched(rides.privacy, rides.engine, max_age=3600), []
    first = watched.gauges()
    event.listen(rides.engine, "before_cursor_execute", lambda *args: statements.append(1))
    threads = [threading.Thread(target=watched.gauges) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (watched.gauges(), statements) == (first, [])
    Watched(rides.privacy, rides.engine).gauges()
    assert statements


def test_a_status_that_cannot_be_read_leaves_no_number_that_could_be_taken_for_one(
    rides: RideService, sqlite_url: str
) -> None:
    watched = Watched(rides.privacy, rides.engine, max_age=0)
    assert len(watched.gauges()) > 1
    raw_rows(sqlite_url, "ALTER TABLE trips RENAME TO journeys")
    (only,) = watched.gauges()
    assert (only.name, only.samples) == ("privkit_up", (((), 0.0),))


def test_opentelemetry_observes_the_same_numbers(rides: RideService) -> None:
    purge(rides)
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    observe(rides.privacy, rides.engine, meter=provider.get_meter("rides"))
    data = reader.get_metrics_data()
    assert data is not None
    read = {
        (
            metric.name,
            *(str(point.attributes[name]) for name in ("table", "field", "rule") if name in point.attributes),
        ): (point.value)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    assert read == samples(text(rides.privacy.status(rides.engine)))
    provider.shutdown()


def test_a_negative_age_is_refused(rides: RideService) -> None:
    with pytest.raises(InvalidValue):
        Watched(rides.privacy, rides.engine, max_age=-1)
