"""What is shown can be read: on a narrow terminal, without colour, in a pipe, and while a bar moves."""

from __future__ import annotations

import io
import re
import signal
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import pytest
from rich.console import Console

from privkit.cli.screen import finding_lines, plan_view, run_view
from privkit.coverage.findings import UNDECIDED_COLUMN
from privkit.retention import Outcome, Plan, Run, Step
from privkit.sqlalchemy.finality import Finality
from tests.cli.program import Project, Terminal
from tests.cli.test_plan import counts

PROSE = ("pseudonymised in domain 'name'", "account: P30D after account_closed")
STEPS = (Step("trips", None, *PROSE, 1_234_567_890, 42), Step("driver_licences", "date_of_birth", *PROSE, 7))
FINALITY = Finality(*(datetime(2026, 6, day, 12, tzinfo=UTC) for day in (1, 1)), datetime(2026, 8, 1, 12, tzinfo=UTC))
PLAN = Plan(datetime(2026, 6, 1, 12, tzinfo=UTC), "0" * 64, STEPS)
RUN = Run(
    "f" * 32,
    (
        Outcome(STEPS[0], 1_234_567_000, 890, blockers={"does not open": 890}),
        Outcome(STEPS[1], 0, 0, "OperationalError"),
    ),
    897,
    FINALITY,
)
COLOUR = re.compile(r"\x1b\[[0-9;]*[34][0-9][;m]")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def drawn(renderable: object, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [45, 60, 80, 200])
def test_numbers_never_break(width: int) -> None:
    plan, run = drawn(plan_view(PLAN), width), drawn(run_view(RUN), width)
    for number in ("1,234,567,890", "42", "1,234,567,897"):
        assert number in plan
    for number in ("1,234,567,890", "1,234,567,000", "890", "897"):
        assert number in run
    assert max(map(len, (plan + run).splitlines())) <= width


@pytest.mark.parametrize("width", [60, 80, 200])
def test_names_of_usual_length_do_not_break_either(width: int) -> None:
    usual = Plan(PLAN.as_of, PLAN.policy_digest, (Step("riders", "date_of_birth", *PROSE, 1_234_567),))
    assert {"riders.date_of_birth": 1_234_567, "total": 1_234_567} == counts(drawn(plan_view(usual), width))


def test_what_waits_what_failed_and_what_stopped_is_said_below_the_table_where_there_is_any() -> None:
    assert "trips: 42 more wait for rows that depend on them" in drawn(plan_view(PLAN), 80)
    assert "trips: 890 left as they are, because they do not open" in drawn(run_view(RUN), 80)
    assert "driver_licences.date_of_birth: stopped by OperationalError" in drawn(run_view(RUN), 80)
    quiet = Step("trips", None, *PROSE, 3)
    plan, run = Plan(PLAN.as_of, PLAN.policy_digest, (quiet,)), Run("0", (Outcome(quiet, 3),), 0, FINALITY)
    assert "total" in drawn(plan_view(plan), 80).splitlines()[-2]
    assert "final everywhere by 2026-08-01 12:00 UTC" in " ".join(drawn(run_view(run), 80).split())
    assert ["overdue: 0"] == drawn(run_view(run), 80).splitlines()[-1:]


def test_a_finding_wraps_under_its_own_beginning_and_keeps_its_code_s_margins() -> None:
    fix = "Say what it is:\n    country: Mapped[Annotated[str, NotPersonal('two-letter code')]]"
    finding = UNDECIDED_COLUMN.at("riders.country", "riders.country has no decision.", fix)
    lines = list(finding_lines(finding, 60))
    assert "MEDIUM PK801: riders.country has no decision." == lines[0]
    assert "    Say what it is:" in lines
    assert any(line.startswith("        country: Mapped[Annotated[str,") for line in lines)
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize("command", [("plan",), ("check",), ("report",), ("purge", "--yes")])
def test_sixty_columns_are_enough(project: Project, command: tuple[str, ...]) -> None:
    project.rows("CREATE TABLE rider_notes (id INTEGER PRIMARY KEY, note TEXT)")
    ended = project.run(*command, COLUMNS="60")
    assert max(map(len, ended.out.splitlines())) <= 60


def test_a_pipe_gets_neither_colour_nor_a_bar(project: Project) -> None:
    for command in (("check",), ("purge", "--yes"), ("status", "--app", "nothing:here")):
        ended = project.run(*command, TERM="xterm-256color")
        assert "\x1b" not in ended.seen
        assert "\r" not in ended.seen
        assert "━" not in ended.seen


def test_a_terminal_gets_a_bar_that_ends_full(project: Project) -> None:
    terminal = Terminal(project, "purge", "--batch", "7")
    terminal.read_until("Destroy 110 values and rows? [y/N]")
    terminal.write("y\n")
    ended = terminal.end()
    plain = ESCAPE.sub("", ended.out)
    assert 0 == ended.code
    assert re.search(r"purge\s+━+\s+110/110", plain)
    assert "overdue: 0" in plain


def test_a_bar_fits_sixty_columns(project: Project) -> None:
    terminal = Terminal(project, "purge", "--yes", "--batch", "7", columns=60)
    lines = re.split(r"[\r\n]+", ESCAPE.sub("", terminal.end().out))
    assert any("━" in line for line in lines)
    assert max(map(len, lines)) <= 60


def test_no_color_is_obeyed_on_a_terminal(project: Project) -> None:
    plain = Terminal(project, "status", "--app", "nothing:here", NO_COLOR="1").end()
    coloured = Terminal(project, "status", "--app", "nothing:here").end()
    assert [] == COLOUR.findall(plain.out)
    assert [] != COLOUR.findall(coloured.out)
    assert "there is no module 'nothing'" in plain.out


def test_ctrl_c_at_the_question_ends_it(project: Project) -> None:
    terminal = Terminal(project, "purge")
    terminal.read_until("[y/N]")
    terminal.process.send_signal(signal.SIGINT)
    ended = terminal.end()
    assert 130 == ended.code
    assert "Stopped." in ended.out
    assert project.run("status").out.endswith("overdue: 110\n")


def test_the_version_is_the_installed_one_where_it_is_installed(project: Project) -> None:
    try:
        expected = version("privkit")
    except PackageNotFoundError:
        expected = "(not installed: run from its source)"
    ended = project.run("--version")
    assert (0, f"privkit {expected}\n", "") == (ended.code, ended.out, ended.err)


@pytest.mark.parametrize("arguments", [(), ("bogus",), ("ledger", "verify", "extra")])
def test_what_is_no_command_cannot_run(project: Project, arguments: tuple[str, ...]) -> None:
    assert 2 == project.run(*arguments).code
