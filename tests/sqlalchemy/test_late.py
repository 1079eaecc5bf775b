"""A late value is asked for at each execution of a statement that was compiled once, and never copied."""

from itertools import count

from sqlalchemy import Engine, Integer, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, with_loader_criteria
from sqlalchemy.sql import visitors

from privkit.sqlalchemy.late import late


class Base(DeclarativeBase): ...


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)


def rows(url: str) -> Engine:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Row(id=number) for number in (1, 2, 3)])
        session.commit()
    return engine


def test_each_execution_asks_anew_while_the_statement_stays_compiled(database_url: str) -> None:
    engine, asked, compiled = rows(database_url), count(1), {}
    engine = engine.execution_options(compiled_cache=compiled)
    criterion = with_loader_criteria(Row, Row.id <= late(lambda: next(asked), Integer()))
    found = []
    for _ in range(3):
        with Session(engine) as session:
            found.append(list(session.scalars(select(Row.id).order_by(Row.id).options(criterion))))
    assert [[1], [1, 2], [1, 2, 3]] == found
    assert len(compiled) == 1
    engine.dispose()


def test_what_annotates_a_statement_leaves_a_late_value_as_the_one_that_it_was() -> None:
    value = late(lambda: 1, Integer())
    condition = with_loader_criteria(Row, Row.id <= value).where_criteria
    assert next(each for each in visitors.iterate(condition) if each.__visit_name__ == "bindparam") is value
