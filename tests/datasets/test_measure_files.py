"""``privkit dataset measure``: files are measured as they are written, and the exit code is the gate's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from privkit.cli.commands import app
from privkit.datasets.relations import files
from privkit.deidentify.measures import measure
from privkit.errors import ApplicationError, InvalidValue, PrivkitError
from tests.datasets.engines import duck

PEOPLE = """\
zip,city,disease,visits,person
01234,Ulm,flu,1,p1
1234,Ulm,flu,2,p2
01234,Ulm,cold,10,p3
# 1234,"Ulm",flu,3,p3
"""


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people [1]*?.csv"
    path.write_text(PEOPLE)
    (tmp_path / "people 1.csv").write_text("zip\n9\n")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["dataset", "measure", *map(str, arguments)], env={"COLUMNS": "100"})


def test_six_numbers_are_printed_as_json(people: Path) -> None:
    ended = run(people, "--quasi", "zip,city", "--sensitive", "disease", "--json")
    assert 0 == ended.exit_code
    body = json.loads(ended.stdout)
    assert ["rows", "classes", "unique", "k", "l", "t"] == list(body)
    assert [4, 3, 2, 1, 1, pytest.approx(1 / 4)] == list(body.values())


def test_without_a_sensitive_column_l_and_t_are_null(people: Path) -> None:
    body = json.loads(run(people, "--quasi", "city", "--json").stdout)
    assert {"rows": 4, "classes": 1, "unique": 0, "k": 4, "l": None, "t": None} == body


def test_a_person_s_rows_count_once(people: Path) -> None:
    assert 3 == json.loads(run(people, "--quasi", "city", "--person", "person", "--json").stdout)["k"]


def test_the_rest_is_in_the_table_for_people(people: Path) -> None:
    ended = run(people, "--quasi", "zip", "--sensitive", "disease", "--person", "person")
    text = " ".join(re.sub(r"[│┌┐└┘─]", " ", ended.stdout).split())
    assert 0 == ended.exit_code
    assert "measured k = 1, distinct l = 1, t = 0.25" in text
    assert "entropy l 1 persons in classes 4 expected re-identifications 3 (75.0%)" in text


def test_a_bound_that_is_missed_ends_with_1_and_names_what_holds_it_back(people: Path) -> None:
    assert 0 == run(people, "--quasi", "city", "--min-k", "4").exit_code
    ended = run(people, "--quasi", "zip,city", "--min-k", "2", "--max-unique", "1", "--json")
    assert 1 == ended.exit_code
    assert 4 == json.loads(ended.stdout)["rows"]
    assert "PK801: k is 1, not at least 2; unique is 2, not at most 1." in ended.stderr
    assert "Without 'zip': measured k = 4" in ended.stderr
    for bound in (("--min-l", "3"), ("--max-t", "0.1")):
        assert 1 == run(people, "--quasi", "zip", "--sensitive", "disease", *bound).exit_code


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nowhere.csv", "--quasi", "a"), ApplicationError),
        (("people [1]*?.csv", "--quasi", "zpi"), InvalidValue),
        (("people [1]*?.csv", "--quasi", "zip", "--max-t", "2"), InvalidValue),
    ],
)
def test_what_cannot_be_measured_is_an_error_of_the_command(
    people: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, error: type[PrivkitError]
) -> None:
    monkeypatch.chdir(people.parent)
    assert isinstance(run(*arguments).exception, error)


def test_a_name_with_a_comma_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"x,y",z\n1,2\n')
    assert 0 == run(tmp_path / "a.csv", "--quasi", '"x,y",z').exit_code


def test_text_of_a_csv_file_is_not_a_number_unless_it_is_sensitive_and_all_of_it_is(people: Path) -> None:
    for sensitive, kind in (("visits", "number"), ("disease", "text"), ("zip", "text"), (None, None)):
        with files(people, sensitive=sensitive) as table:
            assert ("text", kind) == (table.kind("city"), table.kind(sensitive) if sensitive else None)
            assert {"01234": 2, "1234": 1, "# 1234": 1} == dict(
                table.rows(f'SELECT zip, COUNT(*) FROM "{table.table[0]}" GROUP BY zip')
            )


def test_an_empty_field_is_not_an_empty_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('x,y\n,1\n"",1\n')
    with files(tmp_path / "a.csv") as table:
        assert 2 == measure(table, quasi=["x"]).classes


def test_a_partitioned_folder_is_one_table_whose_folders_are_columns_of_text(tmp_path: Path) -> None:
    for zip_code, rows in (("01", 2), ("1", 3)):
        folder = tmp_path / "data" / f"zip={zip_code}"
        folder.mkdir(parents=True)
        duck().sql(f"SELECT 'Ulm' AS city, range AS visits FROM range({rows})").write_parquet(str(folder / "a.parquet"))
    (tmp_path / "data" / "_SUCCESS").touch()
    (tmp_path / "data" / ".a.parquet.crc").write_bytes(b"x")
    found = json.loads(run(tmp_path / "data", "--quasi", "zip,city", "--sensitive", "visits", "--json").stdout)
    # ranks 0, 1, 2; cumulated 2/5, 4/5, 1 in all, 1/2, 1, 1 in 01 and 1/3, 2/3, 1 in 1
    assert [5, 2, 0, 2, 2, pytest.approx(0.15)] == list(found.values())


def test_a_folder_of_two_kinds_of_files_is_refused(people: Path) -> None:
    duck().sql("SELECT 1 AS zip").write_parquet(str(people.parent / "b.parquet"))
    for path in (people.parent, people.parent / "none", Path(__file__)):
        with pytest.raises(ApplicationError, match="neither a Parquet nor a CSV file"), files(path):
            pass


def test_a_file_that_cannot_be_read_is_told_without_what_is_in_it(tmp_path: Path) -> None:
    broken = {"a.csv": "x,y\n" + "1,2\n" * 30_000 + "planted\n", "a.parquet": "planted"}
    for name, content in broken.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(ApplicationError, match="cannot be read as") as refused, files(tmp_path / name) as table:
            measure(table, quasi=["x"])
        assert "planted" not in str(refused.value)


def test_the_first_row_of_a_file_without_a_header_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("planted,value\nx,y\n")
    with files(tmp_path / "a.csv") as table, pytest.raises(InvalidValue) as refused:
        measure(table, quasi=["city"])
    assert [] == [value for value in ("planted", "value") if value in str(refused.value)]
