"""The wall round a whole model: it screens what comes in, leaves out what may not go out, and cleans the errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, PydanticSerializationUnexpectedValue, ValidationError

from privkit.errors import PrivkitError, PurposeError
from privkit.purposes import Scope
from privkit.pydantic.covering import Cover, Sealing, sealing
from privkit.pydantic.gates import Gate, current, handed_out, not_needed, refusal_of, stopped, unserialisable
from privkit.pydantic.opening import Node
from privkit.pydantic.plan import Plan, plan_of
from privkit.pydantic.redaction import redacted
from privkit.pydantic.screen import refusal_on, screened

_Result = TypeVar("_Result")


def validator(cls: type[BaseModel], has_gates: bool) -> Callable[[Any, Any], Any]:
    """Return the function that pydantic calls round the validation of ``cls``."""

    def validate_cleanly(value: Any, handler: Any) -> Any:
        seen = value.read(plan_of(cls), current()) if type(value) is Node else value
        return cleanly(cls, handler, seen)

    def validate(value: Any, handler: Any) -> Any:
        if type(handler).__name__ == "AssignmentValidatorCallable":
            return cleanly(cls, handler, value)
        plan, scope = plan_of(cls), current()
        if type(value) is Node:
            return value.reduced(plan, _validated(plan, scope, value.read(plan, scope), handler))
        denied = plan.denied(scope)
        if not denied:
            return cleanly(cls, handler, value)
        if isinstance(value, cls):
            return cleanly(cls, handler, plan.minimised(value, scope))
        return _validated(plan, scope, value, handler)

    return _named(validate if has_gates else validate_cleanly, cls)


def _validated(plan: Plan, scope: Scope | None, value: Any, handler: Any) -> Any:
    seen, screen = screened(value, plan.hidden(scope), scope)
    try:
        result = cleanly(plan.cls, handler, seen)
    except ValidationError as error:
        failure: Exception = error
    else:
        if isinstance(result, plan.cls):
            # what was dropped was not set
            result.model_fields_set.difference_update(gate.field.name for gate in plan.denied(scope))
        refusal = refusal_on(screen)
        if refusal is None:
            return result
        failure = refusal
    raise refusal_on(screen) or failure


def cleanly(cls: type[BaseModel], call: Callable[..., _Result], *arguments: Any, **options: Any) -> _Result:
    """Call a validation of ``cls``. Raises its ValidationError without a trace of the input."""
    try:
        return call(*arguments, **options)
    except ValidationError as error:
        failure = redacted(error, cls)
    del arguments, options
    raise failure


def serializer(cls: type[BaseModel]) -> Callable[[Any, Any], Any]:
    """Return the function that pydantic calls round the serialisation of ``cls``."""

    def serialize(value: Any, handler: Any) -> Any:
        if not isinstance(value, cls):
            handler(value)  # which answers for a union that is still looking for the right model
            raise stopped(_not_validated(cls))
        plan, scope, dump = plan_of(cls), current(), sealing.get()
        if dump is not None:
            return _serialised(cls, _covered(plan, value, dump), handler, scope, ())
        denied, coarse = plan.denied(scope), plan.coarse(scope)
        if not denied and not coarse:
            return _serialised(cls, value, handler, scope, denied)
        # without a purpose something stays in the place of a value, for its gate to refuse unless it is excluded
        kept = plan.held(value, denied) if scope is None else ()
        seen = plan.without(value, {gate.field.name for gate in denied if gate not in kept})
        values = vars(seen)
        for gate in (*kept, *coarse):
            if gate.field.name in values:
                values[gate.field.name] = gate.shown(values[gate.field.name])
        return _serialised(cls, seen, handler, scope, (*denied, *coarse))

    return _named(serialize, cls)


def _covered(plan: Plan, value: BaseModel, dump: Sealing) -> BaseModel:
    """Return a copy whose personal values are covered. A document is stored as a whole: all of them are needed."""
    denied = plan.denied(dump.scope)
    if denied:
        raise stopped(not_needed(denied[0].field, dump.scope))
    covered = plan.without(value, set())
    for name in plan.gates.keys() & vars(covered).keys():
        vars(covered)[name] = Cover(vars(covered)[name], dump)
    return covered


def _serialised(cls: type[BaseModel], value: Any, handler: Any, scope: Scope | None, denied: tuple[Gate, ...]) -> Any:
    failure: PrivkitError | None = None
    try:
        return handler(value)
    except PydanticSerializationUnexpectedValue:
        pass
    except AttributeError as error:
        names = [gate.field.name for gate in denied if gate.field.name == error.name]
        failure = _not_readable(cls, names[0], scope) if names else unserialisable(cls.__name__)
    except Exception as error:
        failure = refusal_of(error) or unserialisable(cls.__name__)
    if failure is None:
        raise PydanticSerializationUnexpectedValue(f"{cls.__name__} does not hold values of its declared types.")
    raise stopped(failure)


def dumping(cls: type[BaseModel], call: Callable[..., _Result], options: dict[str, Any]) -> _Result:
    """Call a dump of ``cls``. Raises PurposeError or InvalidValue where pydantic could only hand on its text."""
    try:
        return call(**{**options, "warnings": "none"})
    except PydanticSerializationError as error:
        failure = handed_out(error)
    raise failure or unserialisable(cls.__name__)


def assigning(model: BaseModel, name: str, assign: Callable[[], None]) -> None:
    """Assign a field of a model. Where assignment is validated, the purpose has to need the field."""
    gate = plan_of(type(model)).gates.get(name) if model.model_config.get("validate_assignment") else None
    scope = current()
    if gate is not None and gate.precision(scope) is None:
        raise not_needed(gate.field, scope)
    cleanly(type(model), assign)


def _named(function: Callable[[Any, Any], Any], cls: type[BaseModel]) -> Callable[[Any, Any], Any]:
    """pydantic puts the function's name into the path of a union's errors."""
    function.__name__ = function.__qualname__ = cls.__name__
    return function


def _not_validated(cls: type[BaseModel]) -> PurposeError:
    return PurposeError(
        f"A field declared as {cls.__name__} holds something else, so nothing is known about its personal data.",
        "It was put there without validation: by model_construct, model_copy or assignment.",
        f"Validate it first: {cls.__name__}.model_validate(...).",
    )


def _not_readable(cls: type[BaseModel], name: str, scope: Scope | None) -> PurposeError:
    reason = f"is not needed for {scope}" if scope is not None else "is personal data, and no purpose is set"
    return PurposeError(
        f"A computed field or serializer of {cls.__name__} reads {name}, which {reason}.",
        "What it returns would tell about a value that the purpose may not see.",
        "Exclude it from the dump, or work under a purpose that needs what it reads.",
        field=f"{cls.__name__}.{name}",
        purpose=scope.names if scope is not None else (),
    )
