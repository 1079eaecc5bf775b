"""Files of rows, de-identified: what is written, what is refused, and what a stop leaves."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from privkit import (
    AddNoise,
    AgeBand,
    Bins,
    BirthDate,
    Cell,
    Clamp,
    Displace,
    FileKeyring,
    Generalise,
    GeoPoint,
    KeepLast,
    Map,
    Microaggregate,
    NotPersonal,
    Personal,
    Pseudonymise,
    Redact,
    Reversible,
    ShiftDates,
    Substitute,
    Suppress,
    Year,
    Zip3,
)
from privkit.datasets import one_file
from privkit.datasets.columns import Recipe, understood
from privkit.datasets.deidentify import deidentify, here
from privkit.datasets.one_file import FileDone, FileTask
from privkit.datasets.plan import DatasetPlan, Decision
from privkit.deidentify import changed, restore, secret_name, token
from privkit.errors import ApplicationError, InvalidValue, MappingError, PrivkitError
from privkit.location import cell
from privkit.location.noise import PlanarLaplace
from tests import forked
from tests.meta import ROOT

AT = date(2026, 6, 15)
COLUMNS: dict[str, Decision] = {
    "person": Pseudonymise("person"),
    "email": Pseudonymise("email", "email"),
    "phone": KeepLast(2),
    "note": Redact(r"\d+"),
    "card": Substitute("card"),
    "letter": Reversible("letter"),
    "born": Generalise(AgeBand()),
    "seen": ShiftDates(30),
    "zip": Zip3(),
    "income": Bins((1000, 2000)),
    "age": Clamp(high=90),
    "job": Map({"nurse": "health"}, "other"),
    "weight": AddNoise(2.0, 20, 200),
    "height": Microaggregate(3),
    "home": Generalise(Cell(6)),
    "seat": Displace(PlanarLaplace(within=2000)),
    "gone": Suppress(),
    "fare": NotPersonal("a price"),
}
PLAN = DatasetPlan(COLUMNS, at=AT, subject="person")


def rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        {
            "person": f"p{chance.randrange(20)}",
            "email": chance.choice(["", None, f"planted{chance.randrange(9)}@Example.org"]),
            "phone": "planted 0123 4567",
            "note": "planted, call 12345",
            "card": f"4111-{chance.randrange(10000):04}",
            "letter": "Dear planted",
            "born": date(1930 + chance.randrange(80), 2, 28),
            "seen": datetime(2026, 1, 1 + chance.randrange(28), 12, tzinfo=UTC),
            "zip": chance.choice(["03601", "90210", "SW1A 1AA"]),
            "income": chance.randrange(3000),
            "age": chance.randrange(110),
            "job": chance.choice(["nurse", "planted"]),
            "weight": chance.choice([None, 70.5]),
            "height": float(chance.randrange(150, 200)),
            "home": {"lat": 51.5, "lon": -0.125},
            "seat": f"POINT ({chance.randrange(180)} 51.5)",
            "gone": "planted",
            "fare": Decimal("12.50"),
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> FileKeyring:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    FileKeyring.create(path)
    return FileKeyring(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of a partitioned folder."""
    folder = tmp_path_factory.mktemp("data") / "in"
    for number in range(3):
        part = folder / f"year={2024 + number % 2}"
        part.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows(40, number)), part / f"part-{number}.parquet")
    (folder / "_SUCCESS").touch()
    return folder


PARTITIONED = DatasetPlan({**COLUMNS, "year": NotPersonal("a year")}, at=AT, subject="person")


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_every_column_is_what_the_function_of_one_value_leaves(
    source: Path, keyring: FileKeyring, tmp_path: Path
) -> None:
    found = deidentify(source, tmp_path / "out", PARTITIONED, keyring)
    assert ("pseudonymised", 120, 3, 3) == (found.label, found.rows, len(found.files), found.made)
    for name in ("year=2024/part-0.parquet", "year=2025/part-1.parquet"):
        before = pq.ParquetFile(source / name).read()
        after = pq.ParquetFile(tmp_path / "out" / name).read()
        assert before.column_names == after.column_names
        for column, decision in COLUMNS.items():
            if isinstance(decision, Microaggregate):
                continue
            expected = [each_left(keyring, decision, row, column) for row in before.to_pylist()]
            assert expected == after.column(column).to_pylist(), column
        assert (before.schema.field("seen").type, pa.int64()) == (
            after.schema.field("seen").type,
            after.schema.field("age").type,
        )


def each_left(keyring: FileKeyring, decision: Decision, row: dict[str, Any], column: str) -> Any:
    if isinstance(decision, NotPersonal):
        return row[column]
    key = keyring.secret(secret_name(decision))
    return changed(decision, understood(decision, row[column]), key=key, today=AT, subject=row["person"])


def test_a_mean_stands_for_three_numbers_of_all_files_together(
    source: Path, keyring: FileKeyring, tmp_path: Path
) -> None:
    deidentify(source, tmp_path / "out", PARTITIONED, keyring)
    heights = [
        each
        for path in (tmp_path / "out").rglob("*.parquet")
        for each in pq.ParquetFile(path).read().column("height").to_pylist()
    ]
    before = [row["height"] for number in range(3) for row in rows(40, number)]
    assert min(Counter(heights).values()) >= 3
    assert sum(before) == pytest.approx(sum(heights))
    assert set(before) != set(heights)


def test_the_manifest_tells_how_it_was_made_and_no_value(source: Path, keyring: FileKeyring, tmp_path: Path) -> None:
    deidentify(source, tmp_path / "out", PARTITIONED, keyring, policy="abc")
    text = (tmp_path / "out" / "_privkit_manifest.json").read_text()
    found = json.loads(text)
    assert ("pseudonymised", "2026-06-15", "abc") == (found["label"], found["reference_date"], found["policy"])
    assert "kept: a price" == found["columns"]["fare"]
    assert "2000 Census" in found["lists"][0]
    assert {"pseudonym", "reversible:letter"} == set(found["keys"])
    [first, *_] = found["files"]
    for digest, folder in ((first["input"], source), (first["output"], tmp_path / "out")):
        assert digest == sha256((folder / first["name"]).read_bytes()).hexdigest()
    assert "planted" not in text
    assert "anonym" not in text
    for name in found["keys"]:
        assert keyring.secret(name).hex() not in text


def test_nothing_planted_is_left_in_any_byte(source: Path, keyring: FileKeyring, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("email,note\nplanted@example.org,call planted 12\n")
    plan = DatasetPlan({"email": Pseudonymise("email"), "note": Redact("planted")}, at=AT)
    deidentify(tmp_path / "in.csv", tmp_path / "out.csv", plan, keyring)
    out = tmp_path / "out"
    deidentify(source, out, replace(PARTITIONED, columns={**PARTITIONED.columns, "note": Suppress()}), keyring)
    read = [str(pq.ParquetFile(path).read().to_pylist()) for path in out.rglob("*.parquet")]
    everything = [*read, *map(repr, bytes_below(out).values()), (tmp_path / "out.csv").read_text()]
    assert 3 == len(read)
    assert not [text for text in everything if "planted" in text]


def test_c11_none_stays_none_and_the_empty_text_stays_text_in_both_formats(
    keyring: FileKeyring, tmp_path: Path
) -> None:
    table = pa.table({"email": ["", None, "a@b"], "job": [None, "", "x"]})
    plan = DatasetPlan({"email": Pseudonymise("email"), "job": Map({"": "none"}, "other")}, at=AT)
    pq.write_table(table, tmp_path / "in.parquet")
    pc.write_csv(table, tmp_path / "in.csv")
    deidentify(tmp_path / "in.parquet", tmp_path / "out.parquet", plan, keyring)
    deidentify(tmp_path / "in.csv", tmp_path / "out.csv", plan, keyring)
    key = keyring.secret("pseudonym")
    expected = {"email": [token(key, "email", ""), None, token(key, "email", "a@b")], "job": [None, "none", "other"]}
    options = pc.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    for found in (pq.read_table(tmp_path / "out.parquet"), pc.read_csv(tmp_path / "out.csv", convert_options=options)):
        assert expected == found.to_pydict()


def test_csv_text_is_taken_for_what_its_technique_needs(keyring: FileKeyring, tmp_path: Path) -> None:
    plan = DatasetPlan(
        {
            **{name: COLUMNS[name] for name in ("born", "zip", "income", "age", "home")},
            "seen": ShiftDates(30),
            "person": NotPersonal("a number"),
            "height": Microaggregate(2),
        },
        at=AT,
        subject="person",
    )
    (tmp_path / "in.csv").write_text(
        "person,born,zip,income,age,seen,home,height\n"
        "007,1930-02-28,00501,999.5,91,2026-01-31,POINT(-0.125 51.5),1\n"
        '"a ""b"", c",,,,,,,2\n'
    )
    deidentify(tmp_path / "in.csv", tmp_path / "out.csv", plan, keyring)
    key = keyring.secret("pseudonym")
    moved = changed(ShiftDates(30), date(2026, 1, 31), key=key, today=AT, subject="007")
    home = cell(GeoPoint(51.5, -0.125), 6)
    assert (tmp_path / "out.csv").read_text() == (
        '"person","born","zip","income","age","seen","home","height"\n'
        f'"007","90+","005","under 1000","90","{moved}","{home}","1.5"\n'
        '"a ""b"", c",,,,,,,"1.5"\n'
    )


def test_c08_two_files_join_on_an_address_as_often_as_before(keyring: FileKeyring, tmp_path: Path) -> None:
    contacts, orders = ["Ada@example.org", "bob@example.org"], ["ada@EXAMPLE.org", "ada@example.org", "eve@example.org"]
    found = []
    for name, domain, values in (
        ("contacts", "email", contacts),
        ("orders", "email", orders),
        ("other", "shop", orders),
    ):
        pq.write_table(pa.table({name: values}), tmp_path / f"{name}.parquet")
        plan = DatasetPlan({name: Pseudonymise(domain, "email")}, at=AT)
        deidentify(tmp_path / f"{name}.parquet", tmp_path / "out" / f"{name}.parquet", plan, keyring)
        found.append(pq.read_table(tmp_path / "out" / f"{name}.parquet").column(name).to_pylist())
    assert 2 == sum(each in found[0] for each in found[1])
    assert 0 == sum(each in found[0] for each in found[2])


def test_c33_a_value_does_not_depend_on_the_rows_around_it(keyring: FileKeyring, tmp_path: Path) -> None:
    columns = {name: each for name, each in COLUMNS.items() if not isinstance(each, Microaggregate)}
    plan = DatasetPlan(columns, at=AT, subject="person")
    all_rows = [{name: row[name] for name in columns} for row in rows(100)]
    found = {}
    for name, some in (("all", all_rows), ("part", all_rows[50:]), ("back", all_rows[::-1])):
        pq.write_table(pa.Table.from_pylist(some), tmp_path / f"{name}.parquet")
        deidentify(tmp_path / f"{name}.parquet", tmp_path / "out" / f"{name}.parquet", plan, keyring)
        found[name] = pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist()
    assert found["all"][50:] == found["part"]
    assert found["all"] == found["back"][::-1]


def test_c02_stand_ins_stay_different_under_a_unique_key(keyring: FileKeyring, tmp_path: Path) -> None:
    numbers = list(range(1000))
    table = pa.table({"id": pa.array(numbers, pa.int16()), "login": [f"ada{each:03}" for each in numbers]})
    pq.write_table(table, tmp_path / "in.parquet")
    plan = DatasetPlan({"id": Substitute("id"), "login": Substitute("login")}, at=AT)
    deidentify(tmp_path / "in.parquet", tmp_path / "out.parquet", plan, keyring)
    found = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.types == found.schema.types
    assert (1000, 1000) == tuple(len(set(found.column(name).to_pylist())) for name in ("id", "login"))


def test_a_reversible_token_of_a_file_turns_back(keyring: FileKeyring, tmp_path: Path) -> None:
    pq.write_table(pa.table({"letter": ["Dear Ada", ""]}), tmp_path / "in.parquet")
    plan = DatasetPlan({"letter": Reversible("letter")}, at=AT)
    deidentify(tmp_path / "in.parquet", tmp_path / "out.parquet", plan, keyring)
    found = pq.read_table(tmp_path / "out.parquet").column("letter").to_pylist()
    assert ["Dear Ada", ""] == [restore(keyring.secret("reversible:letter"), "letter", each) for each in found]


class Person(BaseModel):
    """Decided by its markers."""

    email: Annotated[str, Personal("user.contact.email", purposes={"a"}, then=Pseudonymise("email"))]
    born: Annotated[date, BirthDate(purposes={"a"}, then=Generalise(AgeBand()))]
    name: Annotated[str | None, Personal("user.name", purposes={"a"})] = None
    country: Annotated[str, NotPersonal("two letters")]


def test_a_model_decides_by_its_markers_and_what_it_leaves_open_is_an_error(
    keyring: FileKeyring, tmp_path: Path
) -> None:
    plan = DatasetPlan.of(Person, at=AT)
    assert {
        "email": "pseudonymised in domain 'email'",
        "born": "generalised to the age band",
        "name": "suppressed",
        "country": "kept: two letters",
    } == plan.labels
    pq.write_table(
        pa.table({"email": ["a"], "born": [AT], "name": ["b"], "country": ["DE"], "x": [1], "y": [2]}),
        tmp_path / "in.parquet",
    )
    with pytest.raises(MappingError, match="2 columns are undecided: x, y") as caught:
        deidentify(tmp_path / "in.parquet", tmp_path / "out", plan, keyring)
    assert '"x": Suppress()' in caught.value.fix
    assert not (tmp_path / "out").exists()
    plan = DatasetPlan.of(Person, at=AT, columns={"x": NotPersonal("row number"), "y": Suppress()})
    assert 1 == deidentify(tmp_path / "in.parquet", tmp_path / "out", plan, keyring).rows


def test_a_decision_for_a_column_that_is_not_there_is_an_error(keyring: FileKeyring, tmp_path: Path) -> None:
    pq.write_table(pa.table({"e_mail": ["a"]}), tmp_path / "in.parquet")
    plan = DatasetPlan({"email": Suppress(), "e_mail": Suppress()}, at=AT)
    with pytest.raises(MappingError, match=r"email \(did you mean e_mail\?\)"):
        deidentify(tmp_path / "in.parquet", tmp_path / "out", plan, keyring)


@pytest.mark.parametrize(
    ("columns", "subject", "said"),
    [
        ({"a": ShiftDates(3)}, None, "subject="),
        ({"a": ShiftDates(0)}, "a", "moves nothing"),
        ({"a": Suppress()}, "b", "data subject's column"),
        ({"a": "hash"}, None, "neither a technique"),
        ({"a": KeepLast(0), "b": Bins(())}, None, "2 mistakes"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(columns: Any, subject: str | None, said: str) -> None:
    with pytest.raises(MappingError, match=said):
        DatasetPlan(columns, at=AT, subject=subject)


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"a": Suppress(), "b": Zip3(), "c": Generalise(AgeBand()), "d": NotPersonal("x")}, "Safe Harbor fields met"),
        ({"a": Suppress(), "b": Generalise(AgeBand((50, 95)))}, "pseudonymised"),
        ({"a": Generalise(Year())}, "pseudonymised"),
        ({"a": Pseudonymise("a")}, "pseudonymised"),
        ({"a": Map({}, "x")}, "pseudonymised"),
    ],
)
def test_the_label_claims_no_more_than_the_plan_does(columns: dict[str, Decision], label: str) -> None:
    assert label == DatasetPlan(columns, at=AT).label


def test_c06_a_result_is_refused_as_an_input(source: Path, keyring: FileKeyring, tmp_path: Path) -> None:
    out = tmp_path / "out"
    deidentify(source, out, PARTITIONED, keyring)
    (tmp_path / "in.csv").write_text("a\n1\n")
    deidentify(tmp_path / "in.csv", tmp_path / "one" / "out.csv", DatasetPlan({"a": Pseudonymise("a")}, at=AT), keyring)
    [copied, *_] = out.rglob("*.parquet")
    (tmp_path / "copy.parquet").write_bytes(copied.read_bytes())
    for again in (out, out / "year=2024", copied, tmp_path / "copy.parquet", tmp_path / "one" / "out.csv", tmp_path):
        with pytest.raises((ApplicationError, MappingError)) as caught:
            deidentify(again, tmp_path.parent / "again", PARTITIONED, keyring)
        assert "result of an earlier run" in str(caught.value)


def test_a_finished_run_does_nothing_when_it_is_run_again(source: Path, keyring: FileKeyring, tmp_path: Path) -> None:
    first = deidentify(source, tmp_path / "out", PARTITIONED, keyring)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "out").rglob("*.*")}
    second = deidentify(source, tmp_path / "out", PARTITIONED, keyring)
    assert (3, 0, first.files) == (first.made, second.made, second.files)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "out").rglob("*.*")}


def stopping(after: int, *, inside: bool = False) -> Any:
    """An engine that is killed: between two files, or in the middle of one."""

    def run(tasks: list[FileTask], recipe: Recipe) -> Generator[FileDone | PrivkitError, None, None]:
        yield from here(tasks[:after], recipe)
        if inside:
            left = Path(tasks[after].target)
            left.parent.mkdir(parents=True, exist_ok=True)
            left.with_name(f".{left.name}.half{one_file.LEFT}").write_bytes(b"PAR1")
        raise KeyboardInterrupt

    return run


def test_a_run_killed_at_any_touch_of_a_file_goes_on_and_ends_with_the_same_bytes(
    source: Path, keyring: FileKeyring, tmp_path: Path
) -> None:
    arguments = [str(source), str(tmp_path / "out"), str(keyring.path), "12"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    ended = forked.run(["-m", "tests.datasets.killed", *arguments], env=environment)
    assert (0, ["9"] * 12) == (ended.returncode, ended.stdout.split()), ended.stderr
    whole, made = bytes_below(tmp_path / "out-0"), []
    for number in range(1, 13):
        found = deidentify(source, tmp_path / f"out-{number}", PARTITIONED, keyring)
        assert whole == bytes_below(tmp_path / f"out-{number}")
        made.append(found.made)
    assert len(set(made)) > 1  # some were killed late enough to leave files


@pytest.mark.parametrize(("after", "inside", "torn"), [(0, True, 0), (1, False, 0), (2, True, 5)])
def test_c06_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    source: Path, keyring: FileKeyring, tmp_path: Path, after: int, inside: bool, torn: int
) -> None:
    deidentify(source, tmp_path / "whole", PARTITIONED, keyring)
    with suppress(KeyboardInterrupt):
        deidentify(source, tmp_path / "out", PARTITIONED, keyring, engine=stopping(after, inside=inside))
    progress = tmp_path / "out" / "_privkit_progress.jsonl"
    lines = progress.read_text().splitlines()
    assert 1 + after == len(lines)
    if torn and after:
        os.truncate(progress, progress.stat().st_size - torn)
    found = deidentify(source, tmp_path / "out", PARTITIONED, keyring)
    assert 3 - after + bool(torn and after) == found.made
    assert bytes_below(tmp_path / "whole") == bytes_below(tmp_path / "out")


@pytest.mark.parametrize("finished", [True, False])
def test_another_plan_key_day_or_input_is_refused_and_changes_nothing(
    keyring: FileKeyring, tmp_path: Path, finished: bool
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"email": [name]}), source / f"{name}.parquet")
    plan = DatasetPlan({"email": Pseudonymise("email")}, at=AT)
    with suppress(KeyboardInterrupt):
        deidentify(source, out, plan, keyring, engine=here if finished else stopping(1))
    before = bytes_below(out)
    FileKeyring.create(tmp_path / "other.json")
    other = FileKeyring(tmp_path / "other.json")

    def refused(said: str, plan: DatasetPlan = plan, keyring: FileKeyring = keyring, policy: str | None = None) -> None:
        with pytest.raises(ApplicationError, match=f"other {said}"):
            deidentify(source, out, plan, keyring, policy=policy)
        assert before == bytes_below(out)

    refused("columns, plan", DatasetPlan({"email": Pseudonymise("mail")}, at=AT))
    refused("plan", DatasetPlan({"email": Pseudonymise("email", "email")}, at=AT))
    refused("plan, reference_date", replace(plan, at=date(2026, 6, 16)))
    refused("keys", keyring=other)
    refused("policy", policy="new")
    pq.write_table(pa.table({"email": ["changed"]}), source / "a.parquet")
    refused("inputs")


def test_an_output_that_was_lost_or_changed_is_made_again(source: Path, keyring: FileKeyring, tmp_path: Path) -> None:
    deidentify(source, tmp_path / "out", PARTITIONED, keyring)
    before = bytes_below(tmp_path / "out")
    first, second, _ = sorted((tmp_path / "out").rglob("*.parquet"))
    first.unlink()
    second.write_bytes(b"")
    assert 2 == deidentify(source, tmp_path / "out", PARTITIONED, keyring).made
    assert before == bytes_below(tmp_path / "out")


def test_an_input_that_changes_while_it_is_read_is_not_written(
    keyring: FileKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"email": ["a"]}), tmp_path / "in.parquet")

    def meddling(tasks: list[FileTask], recipe: Recipe) -> Generator[FileDone | PrivkitError, None, None]:
        pq.write_table(pa.table({"email": ["b"]}), tmp_path / "in.parquet")
        return here(tasks, recipe)

    plan = DatasetPlan({"email": Pseudonymise("email")}, at=AT)
    with pytest.raises(ApplicationError, match="changed while it was read"):
        deidentify(tmp_path / "in.parquet", tmp_path / "out", plan, keyring, engine=meddling)
    assert ["_privkit_progress.jsonl"] == [path.name for path in (tmp_path / "out").iterdir()]


@pytest.mark.parametrize(
    ("column", "decision"),
    [
        (["planted"], ShiftDates(3)),
        (["12 planted"], Bins((1, 2))),
        (["planted"], Generalise(Cell(3))),
        ([float("nan")], Clamp(0, 1)),
        ([["planted"]], Pseudonymise("a")),
        ([1.5], Substitute("a")),
    ],
)
def test_a_value_that_does_not_fit_names_its_file_and_not_itself(
    keyring: FileKeyring, tmp_path: Path, column: list[Any], decision: Decision
) -> None:
    pq.write_table(pa.table({"a": column, "who": ["x"]}), tmp_path / "in.parquet")
    plan = DatasetPlan({"a": decision, "who": NotPersonal("a code")}, at=AT, subject="who")
    with pytest.raises(InvalidValue, match=r"in\.parquet: ") as caught:
        deidentify(tmp_path / "in.parquet", tmp_path / "out", plan, keyring)
    assert "planted" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_number_that_no_longer_fits_its_type_is_told_without_it(keyring: FileKeyring, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([100], pa.int8())}), tmp_path / "in.parquet")
    plan = DatasetPlan({"a": AddNoise(1e9, 4242, 4243)}, at=AT, subject="a")
    with pytest.raises(ApplicationError, match=r"in\.parquet cannot be") as caught:
        deidentify(tmp_path / "in.parquet", tmp_path / "out", plan, keyring)
    assert "424" not in str(caught.value)


@pytest.mark.parametrize("content", [b"PAR1 planted", b""])
def test_a_file_that_is_not_whole_is_refused_without_its_text(
    keyring: FileKeyring, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(ApplicationError, match=r"in\.parquet cannot be read") as caught:
        deidentify(tmp_path / "in.parquet", tmp_path / "out", DatasetPlan({"a": Suppress()}, at=AT), keyring)
    assert "planted" not in str(caught.value)


def test_an_input_or_a_target_that_does_not_fit_is_refused(source: Path, keyring: FileKeyring, tmp_path: Path) -> None:
    mixed, occupied = tmp_path / "mixed", tmp_path / "occupied"
    mixed.mkdir()
    occupied.mkdir()
    for path in (mixed / "a.csv", mixed / "b.parquet", occupied / "report.txt", tmp_path / "notes.txt"):
        path.write_text("a\n")
    (tmp_path / "empty").mkdir()
    for path, target, said in (
        (source, source / "out", "own input"),
        (source, source.parent, "own input"),
        (source, occupied, "no result of privkit"),
        (mixed, tmp_path / "out", "2 kinds"),
        (tmp_path / "notes.txt", tmp_path / "out", "1 kinds"),
        (tmp_path / "empty", tmp_path / "out", "0 kinds"),
        (tmp_path / "absent", tmp_path / "out", "does not exist"),
    ):
        with pytest.raises(ApplicationError, match=said):
            deidentify(path, target, PARTITIONED, keyring)


def test_a_folder_is_not_divided_by_what_is_personal(source: Path, keyring: FileKeyring, tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="divided by year"):
        deidentify(
            source, tmp_path / "out", replace(PARTITIONED, columns={**COLUMNS, "year": Pseudonymise("y")}), keyring
        )
    with pytest.raises(MappingError, match="undecided: year"):
        deidentify(source, tmp_path / "out", PLAN, keyring)


def test_what_a_file_says_about_itself_does_not_go_with_it(keyring: FileKeyring, tmp_path: Path) -> None:
    table = pa.table({"email": ["a"]}).replace_schema_metadata({"author": "planted"})
    pq.write_table(table, tmp_path / "in.parquet")
    plan = DatasetPlan({"email": Pseudonymise("email")}, at=AT)
    deidentify(tmp_path / "in.parquet", tmp_path / "out.parquet", plan, keyring)
    assert {b"privkit": b"pseudonymised"} == pq.read_schema(tmp_path / "out.parquet").metadata
    assert b"planted" not in (tmp_path / "out.parquet").read_bytes()


def test_rows_stay_in_order_and_row_groups_have_one_size(
    keyring: FileKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_file, "ROWS", 3000)
    pq.write_table(pa.table({"n": range(10_000)}), tmp_path / "in.parquet", row_group_size=700)
    deidentify(tmp_path / "in.parquet", tmp_path / "out.parquet", DatasetPlan({"n": NotPersonal("n")}, at=AT), keyring)
    found = pq.ParquetFile(tmp_path / "out.parquet")
    assert list(range(10_000)) == found.read().column("n").to_pylist()
    sizes = [found.metadata.row_group(each).num_rows for each in range(found.metadata.num_row_groups)]
    assert [3000, 3000, 3000, 1000] == sizes


TEXTS = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=30)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(TEXTS)
def test_a_table_is_its_values_one_by_one(keyring: FileKeyring, tmp_path: Path, values: list[str | None]) -> None:
    techniques: dict[str, Decision] = {
        name: COLUMNS[name] for name in ("email", "phone", "note", "card", "letter", "zip", "job", "gone")
    }
    recipe = Recipe(
        DatasetPlan(techniques, at=AT), {name: keyring.secret(name) for name in ("pseudonym", "reversible:letter")}
    )
    batch = pa.record_batch({name: pa.array(values, pa.string()) for name in techniques})
    found = recipe.batch(batch, recipe.schema(batch.schema))
    for name, technique in techniques.items():
        assert not isinstance(technique, NotPersonal)
        key = keyring.secret(secret_name(technique))
        assert [changed(technique, each, key=key, today=AT) for each in values] == found.column(name).to_pylist()
