"""How a function becomes a directive of Alembic: ``op.name(...)`` runs it, and autogenerate can write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations

from privkit import purposes

_Function = TypeVar("_Function", bound=Callable[..., None])


class Step(MigrateOperation):
    """One directive with its arguments, as a migration file holds it. ``undo``: what takes it back."""

    name: ClassVar[str]
    run: ClassVar[Callable[..., None]]

    def __init__(self, *args: Any, undo: MigrateOperation | None = None, **options: Any) -> None:
        self.args, self.options, self.undo = args, options, undo

    @classmethod
    def invoke(cls, operations: Operations, *args: Any, **options: Any) -> None:
        """Run the directive in a migration."""
        operations.invoke(cls(*args, **options))

    def reverse(self) -> MigrateOperation:
        return self.undo or Nothing()

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return (self.name, *self.args, *self.options.items())


class Nothing(MigrateOperation):
    """The way back from a step that only looks."""

    def reverse(self) -> MigrateOperation:
        return self

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("nothing",)


_steps: dict[str, type[Step]] = {}


def directive(function: _Function) -> _Function:
    """Add ``function(operations, ...)`` to Alembic as ``op.<its name>(...)``.

    What it looks up in stored rows is privkit's own question, which no purpose narrows.
    """
    name = function.__name__

    def run(operations: Operations, step: Step) -> None:
        with purposes.internally():
            function(operations, *step.args, **step.options)

    cls = type(name, (Step,), {"name": name, "run": staticmethod(run), "__doc__": function.__doc__})
    Operations.register_operation(name, "invoke")(cls)
    getattr(Operations, name).__doc__ = function.__doc__
    _steps[name] = cls
    return function


def step(function: Callable[..., None], *args: Any, undo: MigrateOperation | None = None, **options: Any) -> Step:
    """Return the call of a directive, for a file that autogenerate writes; options that say nothing are left out."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return _steps[function.__name__](*args, undo=undo, **given)


@Operations.implementation_for(Step)
def run_step(operations: Operations, operation: Step) -> None:
    """Run a directive."""
    operation.run(operations, operation)


@renderers.dispatch_for(Step)
def render_step(context: AutogenContext, operation: Step) -> str:
    """Write a directive as a line of Python."""
    options = [f"{name}={value!r}" for name, value in operation.options.items()]
    written = ", ".join([*(repr(str(each)) for each in operation.args), *options])
    return f"{context.opts['alembic_module_prefix']}{operation.name}({written})"


@renderers.dispatch_for(Nothing)
def render_nothing(context: AutogenContext, operation: Nothing) -> str:
    """Write a line that does nothing, which an otherwise empty function needs."""
    return "pass"
