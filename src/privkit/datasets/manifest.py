"""What is recorded of a de-identified data set: what it was made of, how, and how far it has come. No value, no key.

While a run is on its way there is a file of JSON lines, a line for each file that is whole; then one JSON document.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from privkit.datasets.one_file import LEFT, FileDone, digest_of, sync_folder
from privkit.datasets.plan import DatasetPlan
from privkit.deidentify.techniques import SPARSE_SOURCE
from privkit.errors import ApplicationError
from privkit.precisions import Zip3

FORMAT = 1
MANIFEST, PROGRESS = "_privkit_manifest.json", "_privkit_progress.jsonl"


def header(plan: DatasetPlan, secrets: Mapping[str, bytes], inputs: Mapping[str, str], policy: str | None) -> Any:
    """Return what decides the result: where all of it is equal, every byte is."""
    return {
        "privkit_dataset": FORMAT,
        "label": plan.label,
        "reference_date": plan.at.isoformat(),
        "subject": plan.subject,
        "columns": plan.labels,
        "lists": [SPARSE_SOURCE] if any(isinstance(each, Zip3) for each in plan.techniques.values()) else [],
        "plan": plan.digest,
        "policy": policy,
        # A keyed hash commits to a key of 256 random bits, and tells nothing of it.
        "keys": {name: hmac.digest(key, b"privkit manifest v1", "sha256")[:16].hex() for name, key in secrets.items()},
        "inputs": dict(inputs),
    }


class Manifest:
    """The record of one result. ``folder``: where it lies; ``name``: of the one file it is about, or '' for all."""

    def __init__(self, folder: Path, name: str = "") -> None:
        self._folder = folder
        self._whole, self._progress = folder / _named(MANIFEST, name), folder / _named(PROGRESS, name)

    @property
    def complete(self) -> bool:
        """Whether the result is whole."""
        return self._whole.exists()

    @property
    def reference_date(self) -> date | None:
        """The day that ages were counted to, where a run began."""
        found = self._read()
        return None if found is None else date.fromisoformat(found[0]["reference_date"])

    def done(self, expected: Mapping[str, Any]) -> dict[str, FileDone] | None:
        """Return the files that an earlier run finished, or None where there was none.

        Raises ApplicationError where it was another plan, key or input: half of a result would be of each.
        """
        found = self._read()
        if found is None:
            return None
        before, files = found
        changed = sorted(name for name in before.keys() | expected.keys() if before.get(name) != expected.get(name))
        if changed:
            raise ApplicationError(
                f"{self._folder} holds a result of other {', '.join(changed)}.",
                "What an earlier run made would not fit what this one makes.",
                "Write to a new folder, or remove that result first.",
                changed=changed,
            )
        return files

    def begin(self, expected: Mapping[str, Any], files: Iterable[FileDone]) -> None:
        """Record what is about to be made, before anything is, and what an earlier run finished."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = [expected, *map(asdict, files)]
        _replace(self._progress, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))

    def add(self, done: FileDone) -> None:
        """Record a file that is whole."""
        with open(self._progress, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(done), sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, expected: Mapping[str, Any], files: Mapping[str, FileDone]) -> None:
        """Record that the result is whole."""
        whole = {**expected, "files": [asdict(files[name]) for name in sorted(files)]}
        _replace(self._whole, json.dumps(whole, sort_keys=True, indent=1) + "\n")
        self._progress.unlink(missing_ok=True)
        for left_by_a_crash in self._folder.rglob(f".*{LEFT}"):
            left_by_a_crash.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Any], dict[str, FileDone]] | None:
        try:
            if self.complete:
                before = json.loads(self._whole.read_text(encoding="utf-8"))
                return before, {each["name"]: FileDone(**each) for each in before.pop("files")}
            if not self._progress.exists():
                return None
            first, *lines = self._progress.read_text(encoding="utf-8").split("\n")
            # What follows the last line end was cut off by a crash: its file is made again.
            files = [FileDone(**json.loads(line)) for line in lines[:-1]]
            return json.loads(first), {each.name: each for each in files}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ApplicationError(
                f"The record of the result in {self._folder} cannot be read.",
                "It cannot be told what was finished.",
                "Remove the result, and make it anew.",
            ) from None


def refuse_results(path: Path) -> None:
    """Raise ApplicationError where ``path`` is, holds or lies in a result: it would be changed twice."""
    inside = path.rglob("_privkit_*") if path.is_dir() else (path.parent / _named(each, path.name) for each in _BOTH)
    above = (folder / each for folder in (path, *path.parents) for each in _BOTH)
    found = next((each for each in (*inside, *above) if each.exists()), None)
    if found is not None:
        raise ApplicationError(
            f"{path} is, or holds, the result of an earlier run ({found.name}).",
            "A second run would change what stands for a value, and nothing would join any more.",
            "Give the files that it was made of.",
        )


def still_whole(done: FileDone, target: Path) -> bool:
    """Whether a finished file is what was written."""
    return target.is_file() and digest_of(target) == done.output


_BOTH = (MANIFEST, PROGRESS)


def _named(base: str, name: str) -> str:
    stem, dot, suffix = base.partition(".")
    return f"{stem}-{name}{dot}{suffix}" if name else base


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}{LEFT}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
