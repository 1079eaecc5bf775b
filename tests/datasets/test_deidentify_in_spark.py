"""Spark makes the same files, byte for byte, and shows its keys nowhere."""

from __future__ import annotations

import sys
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from privkit import FileKeyring
from privkit.cli.commands import app
from privkit.datasets.deidentify import deidentify
from privkit.datasets.plan import DatasetPlan
from privkit.datasets.spark import on
from privkit.errors import InvalidValue
from privkit.markers import ShiftDates
from tests.datasets.test_deidentify import AT, PARTITIONED, bytes_below, keyring, source  # noqa: F401

POLICY = """
privkit: 1
purposes:
  mail: {description: "Send letters", legal_basis: contract, keep: {for: P2Y, after: left}}
"""
APP = """
from sqlalchemy.orm import DeclarativeBase

from privkit import FileKeyring, Privacy
from tests.datasets.test_deidentify import PLAN as plan


class Base(DeclarativeBase): ...


privacy = Privacy(policy="policy.yaml", models=Base, keys=FileKeyring("keys.json"))
"""


@pytest.fixture(scope="module")
def context(spark: Any) -> Any:
    """The one session's context, with workers that are this Python."""
    spark.sparkContext.pythonExec = sys.executable
    return spark.sparkContext


def test_spark_writes_the_same_bytes_and_no_key_or_value_is_in_its_logs(
    context: Any,
    source: Path,  # noqa: F811
    keyring: FileKeyring,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    here = deidentify(source, tmp_path / "here", PARTITIONED, keyring)
    there = deidentify(source, tmp_path / "there", PARTITIONED, keyring, engine=on(context))
    assert here == there
    assert bytes_below(tmp_path / "here") == bytes_below(tmp_path / "there")
    folder = Path(urlsplit(context.getConf().get("spark.eventLog.dir")).path)
    logs = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"SparkListenerTaskEnd" in logs
    shown = logs + "".join(capfd.readouterr()).encode()
    secrets = [keyring.secret(name) for name in PARTITIONED.secrets]
    spellings = [spelt for each in secrets for spelt in (each, each.hex().encode(), b64encode(each))]
    assert [] == [each for each in (*spellings, b"planted") if each in shown]


def test_an_error_of_a_worker_comes_back_without_the_value(
    context: Any,
    keyring: FileKeyring,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pq.write_table(pa.table({"who": ["planted"]}), tmp_path / "in.parquet")
    plan = DatasetPlan({"who": ShiftDates(3)}, at=AT, subject="who")
    with pytest.raises(InvalidValue, match=r"in\.parquet: Text is no date") as caught:
        deidentify(tmp_path / "in.parquet", tmp_path / "out", plan, keyring, engine=on(context))
    out, err = capfd.readouterr()
    assert "planted" not in f"{caught.value}{out}{err}"


def test_the_command_takes_spark_for_an_engine(
    context: Any,
    source: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {"shop_in_spark.py": APP, "policy.yaml": POLICY}.items():
        Path(name).write_text(content)
    FileKeyring.create("keys.json")
    command = ["dataset", "deidentify", str(source / "year=2024" / "part-0.parquet"), "out.parquet"]
    command += ["--app", "shop_in_spark:privacy", "--model", "shop_in_spark:plan"]
    ended = CliRunner().invoke(app, [*command, "--engine", "spark", "--master", "local[2]"])
    assert ended.output == "pseudonymised: 40 rows in 1 files, 1 of them written now\n"
    ended = CliRunner().invoke(app, command)
    assert ended.output == "pseudonymised: 40 rows in 1 files, 0 of them written now\n"
    assert 1 == context.parallelize([1]).count()
