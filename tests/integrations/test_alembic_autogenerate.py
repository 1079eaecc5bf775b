"""Autogenerate knows protected models: what it writes applies, a second run finds nothing, and no key is anywhere."""

import enum
import os
import subprocess
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pytest
from alembic import command
from sqlalchemy import MetaData, Numeric, String, create_engine, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import (
    Cell,
    Equality,
    Generalise,
    GeoPoint,
    Location,
    Personal,
    data_subject,
    events,
    not_personal,
)
from privkit.errors import NotProtectedError
from privkit.integrations.alembic import privacy_options
from privkit.previous import Adopting, FernetTokens
from tests import forked
from tests.databases import raw_rows
from tests.integrations.alembic_project import Project, adopting_service, plain_service, sealed_service
from tests.sqlalchemy import rides


@pytest.fixture
def project(tmp_path: Path, database_url: str) -> Project:
    return Project(tmp_path / "migrations", database_url)


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


def many_fields(naming: dict[str, str] | None = None, table: str = "people") -> Any:
    """A data subject with sealed, searched and unsealed fields, with one that only the policy seals, and a residue."""

    class Base(DeclarativeBase):
        metadata = MetaData(naming_convention=naming)

    @data_subject
    @events(closed="closed_at")
    @not_personal("id", "closed_at", because="row id and event time")
    class Person(Base):
        __tablename__ = table
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str, Personal("user.contact.email", purposes={"care"}, search=Equality("email"))]] = (
            mapped_column(unique=True)
        )
        phone: Mapped[Annotated[str, Personal("user.contact.phone_number", purposes={"care"})]]
        name: Mapped[Annotated[str, Personal("user.name", purposes={"care"})]] = mapped_column(
            String(40), server_default="nobody"
        )
        salary: Mapped[Annotated[Decimal | None, Personal("user.financial", purposes={"care"})]] = mapped_column(
            Numeric(12, 3)
        )
        born: Mapped[Annotated[date | None, Personal("user.demographic", purposes={"care"}, seal=True)]]
        mood: Mapped[Annotated[Mood | None, Personal("user.behavior", purposes={"care"}, seal=False)]]
        rough: Mapped[Annotated[GeoPoint | None, Location(purposes={"care"}, seal=False)]]
        home: Mapped[Annotated[GeoPoint | None, Location(purposes={"care"}, then=Generalise(Cell(5)))]]
        closed_at: Mapped[datetime | None]

    return Base


def test_a31_the_first_run_creates_all_and_the_second_finds_nothing(project: Project) -> None:
    project.release(many_fields())
    project.generate("one")
    project.upgrade()
    assert [] == project.difference()
    assert "    pass\n" in project.generate("two")


def test_children_residues_owned_rows_and_consent_are_stable_too(project: Project) -> None:
    project.release(rides.Base, policy=rides.POLICY)
    text = project.generate("one")
    project.upgrade()
    assert "privkit_adult_on" in text
    assert "name_residue" in text
    assert [] == project.difference()


def test_alembic_check_is_content(project: Project) -> None:
    project.release(many_fields())
    project.generate("one")
    project.upgrade()
    command.check(project.config)


@pytest.mark.parametrize(
    "naming", [None, {"ck": "ck_%(table_name)s_%(constraint_name)s", "ix": "idx_%(table_name)s_%(column_0_name)s"}]
)
@pytest.mark.parametrize("table", ["people", "a_table_whose_name_is_nearly_as_long_as_postgresql_allows_it"])
def test_names_are_those_of_create_all(project: Project, naming: dict[str, str] | None, table: str) -> None:
    project.release(many_fields(naming, table))
    project.generate("one")
    project.upgrade()
    assert [] == project.difference()
    migrated = names(project.url, table)
    project.downgrade("base")
    engine = create_engine(project.url)
    assert project.metadata is not None
    project.metadata.create_all(engine)
    engine.dispose()
    assert migrated == names(project.url, table)


def names(url: str, table: str) -> list[set[str | None]]:
    engine = create_engine(url)
    found = inspect(engine)
    checks = {each["name"] for each in found.get_check_constraints(table)}
    indexes = {each["name"] for each in found.get_indexes(table)}
    engine.dispose()
    return [checks, indexes]


def test_the_checks_of_sealed_columns_alone_stand_in_the_new_table(project: Project) -> None:
    project.release(many_fields())
    project.generate("one")
    project.upgrade()
    checks, _ = names(project.url, "people")
    assert {f"privkit_people_{name}_sealed" for name in ("email", "phone", "born", "home")} == checks
    destroyed = "x'00'" if project.url.startswith("sqlite") else "'\\x00'"
    with pytest.raises(Exception, match="privkit_people_phone_sealed"):
        raw_rows(project.url, f"INSERT INTO people (email, phone, name) VALUES ({destroyed}, '0171', 'x')")


def test_a_field_that_only_the_policy_seals_gets_the_type_that_it_is_stored_as(project: Project) -> None:
    project.release(many_fields())
    text = project.generate("one")
    assert "sa.Column('phone', sa.LargeBinary(), nullable=False)" in text
    assert "sa.Column('rough', sa.LargeBinary(), nullable=True)" in text
    assert "sa.Column('salary', sa.Numeric(precision=12, scale=3), nullable=True)" in text
    assert "sa.Column('name', sa.String(length=40), server_default='nobody', nullable=False)" in text


def test_a_changed_type_of_an_unsealed_field_is_still_seen(project: Project) -> None:
    project.release(many_fields())
    project.generate("one")
    project.upgrade()
    raw_rows(project.url, "ALTER TABLE people DROP COLUMN name")
    raw_rows(project.url, "ALTER TABLE people ADD COLUMN name VARCHAR(20) DEFAULT 'nobody' NOT NULL")
    ((change,),) = project.difference()
    assert ("modify_type", "people", "name") == (change[0], change[2], change[3])


@pytest.mark.parametrize("table", ["new", "known"])
def test_without_a_policy_nothing_is_written(project: Project, table: str) -> None:
    if table == "known":
        project.release(many_fields())
        project.generate("one")
        project.upgrade()
    project.release(many_fields(), protected=False)
    with pytest.raises(NotProtectedError, match="privacy_options"):
        project.generate("two")


def test_models_of_another_privacy_are_refused(project: Project) -> None:
    project.release(many_fields())
    known = project.privacy
    project.release(many_fields(table="strangers"))
    project.privacy = known
    with pytest.raises(NotProtectedError, match="was not given"):
        project.generate("one")


def test_a32_a_generated_file_names_no_key_and_nothing_of_privkit(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.release(many_fields())
    caplog.set_level("DEBUG")
    text = project.generate("one")
    project.upgrade()
    everything = text + caplog.text + repr(project.metadata) + repr(project.metadata.tables["people"])  # type: ignore[union-attr]
    assert "no-keys-here" not in everything
    assert "import privkit" not in text
    assert "privkit." not in text
    assert not project.keys.path.exists()


PLAIN_ENV = """\
import sys
sys.modules["privkit"] = None
from alembic import context
from sqlalchemy import create_engine
engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


def alembic(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Alembic's own command line where nothing of privkit is in the environment."""
    url = project.url.replace("%", "%%")
    (project.folder / "alembic.ini").write_text(
        f"[alembic]\nscript_location = {project.folder}\nsqlalchemy.url = {url}\npath_separator = os\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PRIVKIT")}
    line = ["-m", "alembic", "-c", str(project.folder / "alembic.ini"), *arguments]
    return forked.run(line, env=environment, cwd=project.folder)


def test_a31_new_tables_are_made_where_there_is_neither_a_key_nor_privkit(project: Project) -> None:
    project.release(many_fields())
    project.generate("one")
    (project.folder / "env.py").write_text(PLAIN_ENV, encoding="utf-8")
    run = alembic(project, "upgrade", "head")
    assert 0 == run.returncode, run.stderr
    checks, _ = names(project.url, "people")
    assert 4 == len(checks)


APPLICATION = """\
from typing import Annotated
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from privkit import FileKeyring, Personal, Privacy, data_subject, events, not_personal
from datetime import datetime

class Base(DeclarativeBase):
    pass

@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    phone: Mapped[Annotated[str, Personal("user.contact.phone_number", purposes={"care"})]]
    closed_at: Mapped[datetime | None]

privacy = Privacy("policy.yaml", models=Base, keys=FileKeyring("missing-keys.json"))
"""


def test_a32_the_command_line_needs_no_key_and_shows_none(project: Project) -> None:
    (project.folder / "people.py").write_text(APPLICATION, encoding="utf-8")
    env = project.folder / "env.py"
    env.write_text(
        PLAIN_ENV.replace('sys.modules["privkit"] = None', f"sys.path.insert(0, {str(project.folder)!r})")
        .replace(
            "from alembic import context",
            "from alembic import context\nfrom people import Base, privacy\n"
            "from privkit.integrations.alembic import privacy_options",
        )
        .replace(
            "connection=connection)",
            "connection=connection, target_metadata=Base.metadata, **privacy_options(privacy))",
        ),
        encoding="utf-8",
    )
    said = ""
    for arguments in (
        ["revision", "--autogenerate", "-m", "one"],
        ["upgrade", "head"],
        ["check"],
        ["downgrade", "base"],
    ):
        run = alembic(project, *arguments)
        assert 0 == run.returncode, run.stderr
        said += run.stdout + run.stderr
    written = "".join(path.read_text() for path in (project.folder / "versions").glob("*.py"))
    assert "missing-keys" not in said + written


@pytest.mark.parametrize("batch", [False, True])
def test_a_release_after_the_other_leaves_nothing_to_find(project: Project, batch: bool) -> None:
    project.batch = batch
    project.release(plain_service(), protected=False)
    project.generate("one")
    project.upgrade()
    for revision, service in (("two", adopting_service), ("three", sealed_service)):
        project.release(service())
        project.generate(revision)
        project.upgrade()
        assert [] == project.difference()
    project.downgrade("base")


def test_the_steps_on_a_table_that_exists_are_directives(project: Project) -> None:
    project.release(plain_service(), protected=False)
    project.generate("one")
    project.upgrade()
    project.release(adopting_service())
    text = project.generate("two")
    steps = [line.strip() for line in text.splitlines() if "'riders'" in line]
    late = ["op.add_key_column('riders')", "op.add_search_index('riders', 'email_sealed')"]
    if "postgresql" in project.url:
        late.append("op.validate_envelope_check('riders', 'email_sealed')")
    assert "op.add_sealed_column('riders', 'email_sealed', beside='email', search=True)" == steps[0]
    assert late == sorted(steps[1:-3])
    assert [
        "op.drop_key_column('riders')",
        "op.drop_search_index('riders', 'email_sealed')",
        "op.drop_sealed_column('riders', 'email_sealed', beside='email', search=True)",
    ] == steps[-3:]


@pytest.mark.parametrize("phase", ["dual", "sealed", "finished"])
def test_a_new_database_gets_both_columns_of_a_field_on_the_move(project: Project, phase: str) -> None:
    project.release(adopting_service(phase))
    project.generate("one")
    project.upgrade()
    assert [] == project.difference()
    engine = create_engine(project.url)
    assert project.privacy is not None
    assert project.privacy.adoption(engine)[0].watched
    engine.dispose()
    project.downgrade("base")


def in_place(adopting: Adopting | None) -> Any:
    """A column that another library sealed, and that privkit seals where it is."""

    class Base(DeclarativeBase):
        pass

    sealed = Personal("user.contact.email", purposes={"care"}, seal=True, adopting=adopting)

    @data_subject
    @events(closed="closed_at")
    @not_personal("id", "closed_at", because="row id and event time")
    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str | None, sealed]]
        closed_at: Mapped[datetime | None]

    return Base


def test_a_column_that_is_sealed_in_place_gets_its_check_at_the_end(project: Project) -> None:
    tokens = FernetTokens(keys=["EMAIL_KEY"], binary=True)
    project.release(in_place(Adopting(tokens, until=date(2099, 1, 1))))
    project.generate("one")
    project.upgrade()
    assert [] == project.difference()
    assert set() == names(project.url, "people")[0]
    project.release(in_place(None))
    text = project.generate("two")
    assert "op.add_envelope_check('people', 'email')" in text
    project.upgrade()
    assert [] == project.difference()


def test_a_check_that_is_missing_is_proposed_and_then_there(project: Project) -> None:
    project.release(sealed_service())
    project.generate("one")
    project.upgrade()
    project.write("two", "op.drop_envelope_check('riders', 'email_sealed')")
    project.upgrade()
    assert set() == names(project.url, "riders")[0]
    assert "op.add_envelope_check('riders', 'email_sealed')" in project.generate("three")
    project.upgrade()
    assert {"privkit_riders_email_sealed_sealed"} == names(project.url, "riders")[0]
    assert [] == project.difference()
    project.downgrade("two")
    assert set() == names(project.url, "riders")[0]


def test_tables_of_privkit_are_never_proposed_to_be_dropped(project: Project) -> None:
    project.release(sealed_service())
    project.generate("one")
    project.upgrade()
    known = project.privacy
    project.release(plain_service(), protected=False)
    project.privacy = known
    text = project.generate("two")
    assert "privkit_key" not in text
    assert "op.drop_sealed_column('riders', 'email_sealed', search=True)" in text
    assert "op.add_sealed_column('riders', 'email_sealed', search=True)" in text


def test_hooks_of_the_service_are_asked_too(project: Project) -> None:
    project.release(many_fields())
    asked: list[str] = []
    assert project.privacy is not None
    options = privacy_options(
        project.privacy,
        include_object=lambda item, name, kind, reflected, compared: name != "closed_at",
        render_item=lambda kind, item, context: "sa.Text()" if isinstance(item, String) else False,
        process_revision_directives=lambda context, revision, scripts: asked.append("processed"),
    )
    env = project.folder / "env.py"
    text = env.read_text().replace(
        "privacy_options(privacy, compare_server_default=True)", 'config.attributes["options"]'
    )
    env.write_text(text.replace('config.attributes["prepare"](connection)', "pass"))
    config = project.config
    config.attributes["options"] = options
    command.revision(config, message="one", autogenerate=True, rev_id="one")
    assert ["processed"] == asked
    assert "sa.Column('name', sa.Text()" in project.text("one")


def test_a_service_that_compares_checks_itself_finds_nothing_either(project: Project) -> None:
    project.release(many_fields())
    project.generate("one")
    project.upgrade()
    env = project.folder / "env.py"
    plugins = '"autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"], '
    env.write_text(env.read_text().replace("options = {", "options = {" + plugins))
    assert "    pass\n" in project.generate("two")
