"""Models whose annotations are strings: a named alias, a nested optional, and a name under TYPE_CHECKING."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from privkit.markers import Location, Personal

if TYPE_CHECKING:
    from decimal import Decimal

Email = Annotated[str, Personal("user.contact.email", purposes={"account"})]


class Base(DeclarativeBase):
    pass


class Postponed(Base):
    __tablename__ = "postponed"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[Email]
    second_email: Mapped[Email | None]
    home: Mapped[Annotated[str, Location(purposes={"pickup"})] | None]
    children: Mapped[list[PostponedChild]] = relationship(back_populates="parent")


class PostponedChild(Base):
    __tablename__ = "postponed_children"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column()
    parent: Mapped[Postponed] = relationship(
        primaryjoin="foreign(PostponedChild.parent_id) == Postponed.id", back_populates="children"
    )


class PostponedForm(BaseModel):
    email: Email
    second_email: Email | None = None
    homes: list[Annotated[str, Location(purposes={"pickup"})]] = []


class Lost:
    """The marker cannot be read, because another name beside it is not there at run time."""

    amount: Annotated[Decimal, Personal("user.financial", purposes={"receipts"})]


class Elsewhere:
    """No marker is lost: whoever needs the name resolves it."""

    amount: Decimal
