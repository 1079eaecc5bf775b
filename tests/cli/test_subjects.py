"""``privkit erase`` and ``privkit replay``."""

from __future__ import annotations

import shutil

import pytest

from tests.cli.program import Project


@pytest.fixture
def project(project: Project) -> Project:
    """A ride service with a copy of its ledger beside it."""
    project.edit("rides.py", "clock=lambda: NOW)", 'clock=lambda: NOW, ledger=LedgerFile("ledger.jsonl"))')
    project.edit("rides.py", "FileKeyring, GeoPoint,", "FileKeyring, GeoPoint, LedgerFile,")
    return project


def key_of(project: Project, number: int) -> str:
    return str(project.rows(f"SELECT lower(hex(privkit_key)) FROM riders WHERE id = {number}")[0][0])


def test_an_erasure_names_counts_and_both_instants_and_nobody(project: Project) -> None:
    ended = project.run("erase", key_of(project, 1), "--by", "Planted 0", "--yes")
    assert (0, "") == (ended.code, ended.err)
    assert "erased: 2 rows deleted, 0 values destroyed\n" in ended.out
    assert "unreadable here by 2026-06-01 12:05:00 UTC" in ended.out
    assert [] == project.rows("SELECT id FROM riders WHERE id = 1")


def test_it_asks_first(project: Project) -> None:
    key = key_of(project, 1)
    ended = project.run("erase", key, "--by", "counsel", stdin="n\n")
    assert (1, "Nothing was erased.\n") == (ended.code, ended.out)
    assert "Erase this data subject? [y/N]" in ended.err
    assert 2 == project.run("erase", key, "--by", "counsel").code
    assert [(1,)] == project.rows("SELECT id FROM riders WHERE id = 1")


def test_what_is_no_key_id_is_not_shown(project: Project) -> None:
    for given in ("planted1@secret.example", "00" * 16, "00"):
        ended = project.run("erase", given, "--by", "counsel", "--yes")
        assert (2, "") == (ended.code, ended.out)


def test_a_restored_backup_is_told_again(project: Project) -> None:
    assert 0 == project.run("purge", "--yes").code
    shutil.copy(project.folder / "rides.sqlite", project.folder / "backup.sqlite")
    assert 0 == project.run("erase", key_of(project, 1), "--by", "counsel", "--yes").code
    shutil.copy(project.folder / "backup.sqlite", project.folder / "rides.sqlite")
    ended = project.run("replay")
    assert 0 == ended.code
    assert "lines that came back from the ledger's copy: 2\n" in ended.out
    assert "of erased data subjects: 2 rows deleted, 0 values destroyed, 0 left\n" in ended.out
    assert ended.out.endswith("overdue: 0\n")
    assert [] == project.rows("SELECT id FROM riders WHERE id = 1")
    again = project.run("replay")
    assert "lines that came back from the ledger's copy: 0\n" in again.out
    assert 0 == project.run("ledger", "verify").code


def test_a_process_without_the_copy_cannot_go_on(project: Project) -> None:
    assert 0 == project.run("purge", "--yes").code
    project.edit("rides.py", ', ledger=LedgerFile("ledger.jsonl")', "")
    for verb in (["purge", "--yes"], ["replay"], ["erase", "00" * 16, "--by", "counsel", "--yes"]):
        ended = project.run(*verb)
        assert 2 == ended.code
        assert "PK701" in ended.err
