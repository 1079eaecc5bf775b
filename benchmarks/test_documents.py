"""``PersonalModel`` and documents against a plain pydantic model with the same fields, as ratios of processor time.

Each job runs interleaved in one process over 1,000 models of 12 fields, 3 of them personal; the best round of each
counts. Nothing is asserted of the ratios: they are printed.

    make bench
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, SecretStr

from privkit import NotPersonal, Personal, events, policy, purposes
from privkit.clock import system_clock
from privkit.crypto import SubjectKey
from privkit.pydantic import Document, PersonalModel
from tests.meta import ROOT

MODELS, ROUNDS = 1000, 15
POLICY = policy.load(ROOT / "policies" / "rides.yaml")
Text = Annotated[str, NotPersonal("made up for a benchmark")]
Number = Annotated[int, NotPersonal("made up for a benchmark")]
Sealed = Annotated[str | None, Personal("user.contact.email", purposes={"account"})]
DATA: dict[str, Any] = {f"n{i}": i for i in range(4)} | {f"t{i}": f"some text {i}" for i in range(4)}
DATA |= {"closed_at": None, "email": "ada@rides.example", "name": "Ada Lovelace", "phone": "+44 20 7946 0000"}


class Plain(BaseModel):
    n0: int
    n1: int
    n2: int
    n3: int
    t0: str
    t1: str
    t2: str
    t3: str
    closed_at: datetime | None = None
    email: str | None = None
    name: str | None = None
    phone: str | None = None


class Secret(Plain):
    email: SecretStr | None = None  # type: ignore[assignment]
    name: SecretStr | None = None  # type: ignore[assignment]
    phone: SecretStr | None = None  # type: ignore[assignment]


@events(account_closed="closed_at")
class Gated(PersonalModel):
    n0: Number
    n1: Number
    n2: Number
    n3: Number
    t0: Text
    t1: Text
    t2: Text
    t3: Text
    closed_at: Annotated[datetime | None, NotPersonal("event time")] = None
    email: Sealed = None
    name: Sealed = None
    phone: Sealed = None


class OneKey:
    """The key of the one data subject of the benchmark."""

    key = SubjectKey.new()

    def for_sealing(self, subject: object) -> SubjectKey:
        """Return it."""
        return self.key

    for_opening = for_sealing


def under(purpose: str, job: Callable[[], Any]) -> Callable[[], Any]:
    """Run a job in a purpose; entering it is not part of what is measured per model."""
    scope = purposes.scope_for(POLICY, (), (purpose,))

    def run() -> Any:
        entry = purposes.enter(scope)
        try:
            return job()
        finally:
            purposes.leave(entry)

    return run


def best(jobs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the best processor time of each job, run in turns."""
    found = dict.fromkeys(jobs, float("inf"))
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for name, job in jobs.items():
                started = time.process_time()
                job()
                found[name] = min(found[name], time.process_time() - started)
    finally:
        gc.enable()
    return found


def each(call: Callable[[Any], Any], over: list[Any]) -> Callable[[], Any]:
    """Call once for each of several."""
    return lambda: [call(one) for one in over]


def test_validating_and_dumping(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    many, documents = [dict(DATA) for _ in range(MODELS)], Document(Gated, POLICY, OneKey(), system_clock)
    plain, secret = each(Plain.model_validate, many)(), each(Secret.model_validate, many)()
    gated = under("account", each(Gated.model_validate, many))()
    texts = [model.model_dump_json() for model in plain]
    stored = under("account", each(lambda one: documents.dumps(one, subject=None), gated[:100]))() * (MODELS // 100)
    groups: dict[str, dict[str, Callable[[], Any]]] = {
        "validate": {
            "plain": each(Plain.model_validate, many),
            "SecretStr": each(Secret.model_validate, many),
            "needed": under("account", each(Gated.model_validate, many)),
            "not needed": under("pickup", each(Gated.model_validate, many)),
        },
        "dump": {
            "plain": each(Plain.model_dump, plain),
            "SecretStr": each(Secret.model_dump, secret),
            "needed": under("account", each(Gated.model_dump, gated)),
            "not needed": under("pickup", each(Gated.model_dump, gated)),
        },
        "JSON": {
            "plain": each(Plain.model_dump_json, plain),
            "needed": under("account", each(Gated.model_dump_json, gated)),
            "not needed": under("pickup", each(Gated.model_dump_json, gated)),
            "document": under("account", each(lambda one: documents.dumps(one, subject=None), gated)),
        },
        "from JSON": {
            "plain": each(Plain.model_validate_json, texts),
            "needed": under("account", each(Gated.model_validate_json, texts)),
            "not needed": under("pickup", each(Gated.model_validate_json, texts)),
            "document": under("account", each(lambda one: documents.loads(one, subject=None), stored)),
            "document, not needed": under("pickup", each(lambda one: documents.loads(one, subject=None), stored)),
        },
    }
    benchmark.pedantic(groups["validate"]["needed"], rounds=1)
    with capsys.disabled():
        for group, jobs in groups.items():
            times = best(jobs)
            ratios = "   ".join(f"{name} {times[name] / times['plain']:.2f}" for name in jobs if name != "plain")
            print(f"\n{group:10} plain {times['plain'] / MODELS * 1e6:5.2f} us   {ratios}", end="")
