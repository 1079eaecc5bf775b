"""``privkit hold``, and the erasures that wait for one."""

from __future__ import annotations

from tests.cli.program import Project

WHO = ("--reason", "Planted reason", "--by", "Planted 0", "--until", "2027-01-01T00:00:00Z")


def key_of(project: Project, number: int) -> str:
    return str(project.rows(f"SELECT lower(hex(privkit_key)) FROM riders WHERE id = {number}")[0][0])


def test_a_hold_is_placed_listed_and_released_without_its_words(project: Project) -> None:
    placed = project.run("hold", "place", "--table", "trips", "--row", "1", "--row", "2", "--role", "legal", *WHO)
    assert (0, "hold 1 is placed\n", "") == (placed.code, placed.out, placed.err)
    listed = project.run("hold", "list")
    assert 0 == listed.code
    assert all(word in listed.out for word in ("1: trips", "legal", "2026-06-01", "2027-01-01"))
    assert 0 == project.run("purge", "--yes").code
    assert [(1,), (2,)] == project.rows("SELECT id FROM trips WHERE id < 4")
    ended = project.run("hold", "release", "1", "--by", "counsel")
    assert (0, "hold 1 is released; erasures that wait for privkit erase --deferred: 0\n") == (ended.code, ended.out)
    assert "trips" not in project.run("hold", "list").out
    assert "released 2026-06-01" in project.run("hold", "list", "--all").out
    assert 2 == project.run("hold", "release", "1", "--by", "counsel").code


def test_a_hold_without_an_end_or_on_nobody_is_refused_and_nothing_is_shown(project: Project) -> None:
    for options in (
        ["--table", "trips", "--reason", "r", "--by", "b"],
        ["--subject", "planted1@secret.example", *WHO],
        ["--subject", "00" * 16, *WHO],
        ["--table", "trips", "--row", "planted", *WHO],
        ["--row", "1", *WHO],
        ["--table", "trips", "--reason", "r", "--by", "b", "--until", "2027-01-01"],
    ):
        ended = project.run("hold", "place", *options)
        assert (2, "") == (ended.code, ended.out)
    assert [] == project.rows("SELECT id FROM privkit_hold")


def test_e18_an_erasure_waits_for_a_hold_and_is_carried_out_afterwards(project: Project) -> None:
    key = key_of(project, 1)
    assert 0 == project.run("hold", "place", "--subject", key, *WHO).code
    assert 2 == project.run("erase", key, "--by", "Planted 0", "--yes").code
    waits = project.run("erase", key, "--by", "Planted 0", "--yes", "--defer")
    assert (0, True) == (waits.code, "The erasure waits" in waits.out)
    listed = project.run("hold", "list")
    assert (0, True) == (listed.code, "1 for a hold, 0 for privkit erase --deferred" in listed.out)
    assert "still waiting for a hold: 1\n" in project.run("erase", "--deferred").out

    released = project.run("hold", "release", "1", "--by", "counsel")
    assert released.out.endswith("privkit erase --deferred: 1\n")
    assert 1 == project.run("hold", "list").code
    assert "erasures that wait for no hold any more: 1" in project.run("status").out
    done = project.run("erase", "--deferred")
    assert (0, True) == (done.code, "erased: 1 data subjects, 2 rows deleted" in done.out)
    assert [] == project.rows("SELECT id FROM riders WHERE id = 1")
    assert 2 == project.run("erase", key, "--deferred").code
    assert 2 == project.run("erase").code
