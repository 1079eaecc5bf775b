"""What docs/operating ships can be read by what it is for, and runs commands that exist."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from privkit.cli.commands import CANNOT, FOUND, STOPPED, app
from privkit.integrations.metrics import NAMES
from tests.cli.program import ROOT

FOLDER = ROOT / "docs" / "operating"
GUIDE = ROOT / "docs" / "operating.md"
FILES = {path.name for path in FOLDER.iterdir()}


def documents(name: str) -> list[Any]:
    return list(YAML(typ="safe").load_all((FOLDER / name).read_text(encoding="utf-8")))


def unit(name: str) -> configparser.RawConfigParser:
    """A unit of systemd, none of whose settings is given twice."""
    found = configparser.RawConfigParser(strict=True)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string((FOLDER / name).read_text(encoding="utf-8"))
    return found


def pods() -> list[Any]:
    return [each["spec"]["jobTemplate"]["spec"]["template"]["spec"] for each in documents("cronjob.yaml")]


def jobs() -> list[tuple[str, str, str]]:
    """The lines of the crontab: when, under whose account, what."""
    lines = (FOLDER / "crontab").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line and not line.startswith("#") and not re.match(r"[A-Z_]+=", line)]
    found = [re.fullmatch(r"((?:[\d*/,-]+ ){5}) *(\w+) +(.+)", line) for line in kept]
    assert None not in found
    return [(each[1], each[2], each[3]) for each in found if each]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of privkit that is run or shown, with where it is."""
    for pod in pods():
        for container in pod["containers"]:
            yield "cronjob.yaml", [*container["command"], *container["args"]]
    for key, value in unit("privkit.service")["Service"].items():
        if key.startswith("Exec"):
            yield "privkit.service", ["privkit", *shlex.split(value)[1:]]
    for *_, line in jobs():
        for command in re.findall(r"venv/bin/(privkit [^>|;]+)", line):
            yield "crontab", shlex.split(command)
    for command in re.findall(r"`(privkit (?:[a-z]+ )*(?:--[^`]+|[a-z]+))`", GUIDE.read_text(encoding="utf-8")):
        yield "operating.md", shlex.split(command.replace("-many N", "-many 7"))


def parse(command: Any, words: list[str]) -> None:
    """Parse a command line as the program does, and run nothing of it."""
    context = command.make_context("privkit", list(words), resilient_parsing=False)
    while hasattr(context.command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, below, rest = context.command.resolve_command(context, rest)
        context = below.make_context(name, rest, parent=context)


COMMANDS = {f"{where}: {' '.join(words)}": words[1:] for where, words in commands()}


@pytest.mark.parametrize("shown", COMMANDS)
def test_every_command_line_that_is_shown_is_one(shown: str) -> None:
    parse(typer.main.get_command(app), COMMANDS[shown])


@pytest.mark.parametrize("words", [["purge", "--max-second", "3"], ["purge", "--workers", "many"], ["purges"]])
def test_a_command_line_with_a_mistake_is_seen(words: list[str]) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - typer has click within it, or beside it, by its release
        parse(typer.main.get_command(app), words)
    assert "UsageError" in {cls.__name__ for cls in type(raised.value).__mro__}


def test_each_file_runs_a_purge_and_a_look() -> None:
    verbs = {(shown.partition(":")[0], words[0]) for shown, words in COMMANDS.items()}
    assert {
        (name, verb) for name in ("cronjob.yaml", "privkit.service", "crontab") for verb in ("purge", "status")
    } <= verbs


def test_each_file_is_linked_from_the_guide_and_each_link_leads_to_one() -> None:
    assert FILES == set(re.findall(r"\]\(operating/([\w.]+)\)", GUIDE.read_text(encoding="utf-8")))


def test_a_run_ends_itself_before_its_scheduler_does_and_has_time_for_a_batch() -> None:
    purge, _ = documents("cronjob.yaml")
    job, (container,) = purge["spec"]["jobTemplate"]["spec"], pods()[0]["containers"]
    seconds = int(container["args"][container["args"].index("--max-seconds") + 1])
    service = unit("privkit.service")["Service"]
    assert seconds + 60 < job["activeDeadlineSeconds"]
    assert seconds + 60 < int(service["TimeoutStartSec"])
    assert 65 < pods()[0]["terminationGracePeriodSeconds"]
    assert 65 < int(service["TimeoutStopSec"])
    assert "Forbid" == purge["spec"]["concurrencyPolicy"]


def test_the_pods_have_no_more_rights_than_they_need_and_no_secret_in_the_open() -> None:
    for pod in pods():
        (container,) = pod["containers"]
        rights = container["securityContext"]
        assert (True, False) == (pod["securityContext"]["runAsNonRoot"], pod["automountServiceAccountToken"])
        assert (False, True) == (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"])
        assert ["ALL"] == rights["capabilities"]["drop"]
        assert all("secretRef" in each for each in container["envFrom"])
    assert [] == [path for path in FOLDER.iterdir() if "://" in path.read_text(encoding="utf-8")]


def test_the_timer_starts_the_service_of_its_name_every_night() -> None:
    assert unit("privkit.timer")["Timer"]["OnCalendar"].endswith("UTC")
    assert {"privkit.timer", "privkit.service"} <= FILES


def test_a_percent_sign_would_end_a_line_of_the_crontab() -> None:
    assert [] == [line for *_, line in jobs() if "%" in line]


def test_the_alerts_watch_gauges_that_there_are() -> None:
    (found,) = documents("alerts.yaml")
    rules = [rule for group in found["groups"] for rule in group["rules"]]
    watched = {name for rule in rules for name in re.findall(r"privkit_\w+", rule["expr"])}
    assert watched <= set(NAMES)
    assert {"privkit_overdue_rows", "privkit_last_proven_run_timestamp_seconds", "privkit_up"} <= watched
    assert all({"alert", "expr", "labels", "annotations"} <= set(rule) for rule in rules)


def test_the_guide_has_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [0, FOUND, CANNOT, STOPPED] == [int(row) for row in rows]
