"""What an auditor reads: complete, the same in three forms, and free of stored values."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from privkit import not_personal
from privkit.coverage import KINDS, Severity, report
from privkit.coverage.report import Report
from privkit.errors import ClockError
from tests.coverage.small import EMAILS, NAMES, NOW, POINTS, fill, models, privacy
from tests.databases import raw_rows

VOID = {"meta", "br", "hr", "img", "link", "input"}


@pytest.fixture
def plain(tmp_path: Path) -> Report:
    return report(privacy(tmp_path).guard)


@pytest.fixture
def live(tmp_path: Path, database_url: str) -> Iterator[Report]:
    """A report on a filled database with plain values, unknown tables and future events in it."""
    classes = models()
    service, engine = privacy(tmp_path, classes=classes), create_engine(database_url)
    fill(service, classes, engine)
    raw_rows(database_url, "CREATE TABLE guestbook (email VARCHAR(80))")
    raw_rows(database_url, f"INSERT INTO guestbook VALUES ('{EMAILS[0]}')")
    raw_rows(database_url, "UPDATE trips SET ended_at = '2036-01-02 03:04:05.000000' WHERE id = 1")
    raw_rows(database_url, "UPDATE riders SET email = (SELECT email FROM riders WHERE id = 1) WHERE id = 2")
    yield report(service.guard, engine)
    engine.dispose()


class Page(HTMLParser):
    """Collects the elements of a page and checks that each is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def test_no_planted_value_appears_in_any_form(live: Report) -> None:
    assert len(live.findings) >= 3
    planted = [*EMAILS, *NAMES, "03:04:05", "2036"]
    planted += [text for point in POINTS for text in (str(point.lat), str(point.lon))]
    for text in (live.text(), live.json(), live.html(), repr(live)):
        assert [] == [value for value in planted if value in text]


def test_the_three_forms_name_the_same_findings_tables_and_columns(live: Report) -> None:
    names = [finding.where for finding in live.findings]
    names += [column.name for table in live.tables for column in table.columns]
    for text in (live.text(), live.json(), live.html()):
        assert [] == [name for name in names if name not in text]


def test_the_json_has_a_schema_version_and_sorted_keys(plain: Report) -> None:
    data = json.loads(plain.json())
    assert 1 == data["schema"]
    assert plain.json() == json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    expected = "columns controller covered database findings generated_at packs policy questions schema tables"
    assert sorted([*expected.split(), "on_disks", "undecided_tables"]) == list(data)


def test_the_json_says_of_a_column_all_that_is_known(live: Report) -> None:
    (riders,) = [table for table in json.loads(live.json())["tables"] if table["name"] == "trips"]
    (start,) = [column for column in riders["columns"] if column["name"] == "start"]
    use = {
        "purpose": "navigation",
        "legal_basis": "contract",
        "keep": "P1D after trip_ended",
        "precision": "exact",
        "prohibited": False,
        "minimum_group": None,
    }
    assert [use] == start["uses"]
    assert ("user.location.precise (sensitive)", "sealed", "suppressed") == (
        start["category"],
        start["sealing"],
        start["technique"],
    )
    assert ("proven", {"rows": 3, "empty": 0, "envelopes": 3, "destroyed": 0, "own": 3}) == (
        start["evidence"]["level"],
        start["evidence"]["stored"],
    )
    path = {"declared": "rider", "tables": ["trips", "riders"], "nullable": False}
    assert {"how": "explicit", "nullable": False, "paths": [path]} == riders["owner"]


def test_two_reports_of_one_state_are_the_same_bytes(tmp_path: Path) -> None:
    guard = privacy(tmp_path, gap="PK801").guard
    one, other = report(guard), report(guard)
    assert (one.json(), one.html(), one.text()) == (other.json(), other.html(), other.text())


def test_the_header_names_policy_packs_and_instant(tmp_path: Path) -> None:
    guard = privacy(tmp_path).guard
    header = report(guard, at=datetime(2026, 1, 2, tzinfo=UTC)).header
    assert ("2026-01-02T00:00:00+00:00", guard.policy.digest) == (header.generated_at, header.digest)
    assert NOW.isoformat() == report(guard).header.generated_at
    assert {"gdpr", "consent-ages"} == {name for name, _ in header.packs}
    assert ("name", "Rides Ltd") in header.controller
    assert header.database is None


def test_an_instant_without_a_zone_is_refused(tmp_path: Path) -> None:
    guard = privacy(tmp_path).guard
    with pytest.raises(ClockError):
        report(guard, at=datetime(2026, 1, 2))


@pytest.mark.parametrize(
    ("gap", "covered"), [("", True), ("PK809", True), ("PK812", False), ("PK802", False), ("PK805", False)]
)
def test_it_is_covered_when_nothing_has_to_be_mended(gap: str, covered: bool, tmp_path: Path) -> None:
    assert covered is report(privacy(tmp_path, gap=gap).guard).covered


def test_a_threshold_chooses_what_has_to_be_mended(tmp_path: Path) -> None:
    found = report(privacy(tmp_path, gap="PK809").guard)
    assert (0, 1) == (len(found.at_least()), len(found.at_least(Severity.LOW)))


@pytest.mark.parametrize("width", [60, 100, 160])
def test_no_line_of_text_is_wider_than_asked(width: int, live: Report) -> None:
    assert [] == [line for line in live.text(width).splitlines() if len(line) > width]


def test_the_owner_is_told_with_how_it_is_known(tmp_path: Path) -> None:
    riders, trips = report(privacy(tmp_path, gap="PK812").guard).tables
    assert "its rows are data subjects" == str(riders.owner)
    assert "explicit, every path may be NULL: trips -> riders by rider (may be NULL)" == str(trips.owner)


def test_a_field_of_nobody_is_declared_and_not_reachable(tmp_path: Path) -> None:
    leads = report(privacy(tmp_path, gap="PK804").guard).tables[0]
    known = leads.columns[1].evidence
    assert ("nobody", "declared") == (str(leads.owner), known.level if known else None)


def test_without_a_database_nothing_is_live_or_proven(plain: Report) -> None:
    known = [column.evidence for table in plain.tables for column in table.columns if column.evidence]
    assert {("reachable", None, None)} == {(each.level, each.live, each.proven) for each in known}


def test_every_column_of_the_models_is_in_the_report(tmp_path: Path) -> None:
    classes = models(gap="PK801")
    found = report(privacy(tmp_path, classes=classes).guard)
    listed = {(table.name, column.name) for table in found.tables for column in table.columns}
    expected = {("riders", each.name) for each in classes["Rider"].__table__.columns}
    assert expected | {("trips", each.name) for each in classes["Trip"].__table__.columns} == listed
    assert {
        "personal": 3,
        "not personal": 5,
        "names the owner": 1,
        "privkit's own": 3,
        "undecided": 1,
    } == found.counts()


def test_every_question_of_the_guide_is_answered_with_evidence_or_a_gap(live: Report) -> None:
    assert 8 == len(live.answers)
    assert [] == [answer.question for answer in live.answers if not (answer.evidence or answer.gaps)]


def test_what_privkit_cannot_show_is_named_as_a_gap(plain: Report) -> None:
    names, governments = plain.answers[6:]
    assert ("partly", "partly") == (names.state, governments.state)
    assert all(gap.startswith("not yet covered by privkit: ") for gap in governments.gaps)
    assert all(gap.endswith("is shown as it is, or not at all: no purpose sees a StandIn") for gap in names.gaps)


def test_a_gap_of_the_models_is_a_gap_of_its_question(tmp_path: Path) -> None:
    needed = report(privacy(tmp_path, gap="PK802").guard).answers[0]
    assert ("1 x PK802 table about data subjects without a decision",) == needed.gaps


def test_the_html_is_well_formed(live: Report) -> None:
    page = Page(live.html())
    assert [] == page.open
    assert 1 == len(page.all("h1"))


def test_the_html_asks_nobody_for_anything(live: Report) -> None:
    text = live.html()
    page = Page(text)
    assert [] == page.all("script", "img", "link", "iframe", "object", "embed", "form", "base")
    assert [] == [word for word in ("http://", "https://", "@import", "url(", "javascript:") if word in text]
    assert [] == [each["href"] for each in page.all("a") if not str(each["href"]).startswith("#")]
    assert [] == [key for _, attributes in page.elements for key in attributes if key in ("src", "style", "onclick")]


def test_the_html_can_be_used_by_keyboard_and_screen_reader(live: Report) -> None:
    page = Page(live.html())
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))
    assert [{"lang": "en-GB"}] == page.all("html")
    assert {"class": "skip", "href": "#findings"} == page.all("a")[0]
    assert set() == {str(each["href"])[1:] for each in page.all("a")} - set(ids)
    assert len(page.all("table")) == len(page.all("caption"))
    assert {"col", "row"} == {each.get("scope") for each in page.all("th")}


def test_the_html_says_a_severity_in_words(live: Report) -> None:
    page = Page(live.html())
    assert {finding.severity.word.capitalize() for finding in live.findings} <= set(page.words)


def test_names_are_escaped_in_the_html(tmp_path: Path) -> None:
    classes = models(gap="PK814")
    not_personal("rider_ref", because="<script>alert('1')</script>")(classes["Trip"])
    text = report(privacy(tmp_path, classes=classes).guard).html()
    assert [] == Page(text).all("script")
    assert "&lt;script&gt;" in text


def test_every_kind_can_be_printed() -> None:
    findings = [kind.at("riders", "what.", "fix") for kind in KINDS.values()]
    assert all(finding.title for finding in findings)
