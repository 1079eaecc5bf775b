"""A data set as a plan has it, file by file: what was finished stays finished, and the same input gives the same bytes.

plan = DatasetPlan({"email": Pseudonymise("email"), "fare": NotPersonal("a price")}, at=date(2026, 1, 1))
deidentify(Path("trips"), Path("shared/trips"), plan, keyring)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from privkit.crypto.keyring import Keyring
from privkit.datasets.columns import Recipe, understood
from privkit.datasets.manifest import Manifest, header, refuse_results, still_whole
from privkit.datasets.one_file import FileDone, FileTask, counts_of, deidentify_file, digest_of, names_of
from privkit.datasets.plan import DatasetPlan
from privkit.deidentify.numbers import groups
from privkit.errors import ApplicationError, MappingError, PrivkitError
from privkit.markers import NotPersonal
from privkit.precisions import Microaggregate

Engine = Callable[[list[FileTask], Recipe], Generator[FileDone | PrivkitError, None, None]]
"""Has files made, by ``deidentify_file`` and nothing else, and hands out what became of each."""
Progress = Callable[[int, int], None]
"""Called with how many files are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Deidentified:
    """What was made. ``label``: what may be said of it. ``made``: how many of the ``files`` this run wrote."""

    label: str
    files: tuple[FileDone, ...]
    made: int

    @property
    def rows(self) -> int:
        """How many rows there are in all files."""
        return sum(each.rows for each in self.files)


def here(tasks: list[FileTask], recipe: Recipe) -> Generator[FileDone | PrivkitError, None, None]:
    """The engine of this process: DuckDB reads, a batch of rows in memory at a time."""
    return (deidentify_file(task, recipe) for task in tasks)


def deidentify(
    source: Path,
    target: Path,
    plan: DatasetPlan,
    keyring: Keyring,
    *,
    policy: str | None = None,
    engine: Engine = here,
    progress: Progress = lambda done, total: None,
) -> Deidentified:
    """Write the Parquet or CSV files of ``source``, a file or a folder, to ``target`` as the plan has them.

    A run that was stopped goes on where it was, and one that was finished does nothing; either way only where plan,
    keys and input are the same. ``policy``: the digest to record. Names of files and folders stay: none may tell of
    a data subject.

    Raises MappingError for an undecided column, ApplicationError for an input or a target that does not fit, and
    InvalidValue for a value that a technique does not fit; what is finished by then stays.
    """
    source, target = source.resolve(), target.resolve()
    tasks, manifest = _tasks(source, target), _manifest(source, target)
    for task in tasks:
        plan.require((*_partition_keys(plan, task.name), *names_of(Path(task.source))))
    secrets = {name: keyring.secret(name) for name in sorted(plan.secrets)}
    expected = header(plan, secrets, {task.name: task.digest for task in tasks}, policy)
    found = manifest.done(expected)
    if found is None:
        _refuse_occupied(target)
    files = {task.name: found[task.name] for task in tasks if found and _stands(found.get(task.name), task)}
    waiting = [task for task in tasks if task.name not in files]
    if not waiting and manifest.complete:
        return Deidentified(plan.label, tuple(files[name] for name in sorted(files)), 0)
    manifest.begin(expected, files.values())
    if waiting:
        recipe = Recipe(plan, secrets, _means(plan, [Path(task.source) for task in tasks]))
        with closing(engine(waiting, recipe)) as results:
            for made in results:
                if isinstance(made, PrivkitError):
                    raise made
                manifest.add(made)
                files[made.name] = made
                progress(len(files), len(tasks))
    manifest.finish(expected, files)
    return Deidentified(plan.label, tuple(files[name] for name in sorted(files)), len(waiting))


def recorded_date(source: Path, target: Path) -> date | None:
    """Return the day that an earlier run into ``target`` counted ages to, so that going on is the default."""
    return _manifest(source.resolve(), target.resolve()).reference_date


def _stands(done: FileDone | None, task: FileTask) -> bool:
    return done is not None and still_whole(done, Path(task.target))


def _tasks(source: Path, target: Path) -> list[FileTask]:
    if not source.exists():
        raise ApplicationError(f"{source} does not exist.", "", "Give a Parquet or CSV file, or a folder of them.")
    if source == target or source in target.parents or target in source.parents:
        raise ApplicationError(
            "The result would lie in its own input, or the input in it.", "", "Give a folder apart from the input."
        )
    refuse_results(source)
    if source.is_file():
        _require_one_kind([source])
        file = target if _one_file(source, target) else target / source.name
        return [FileTask(source.name, str(source), str(file), digest_of(source))]
    paths = [each for each in sorted(source.rglob("*")) if each.is_file() and _counts(each.relative_to(source))]
    _require_one_kind(paths)
    names = {path: path.relative_to(source).as_posix() for path in paths}
    return [FileTask(name, str(path), str(target / name), digest_of(path)) for path, name in names.items()]


def _manifest(source: Path, target: Path) -> Manifest:
    return Manifest(target.parent, target.name) if _one_file(source, target) else Manifest(target)


def _one_file(source: Path, target: Path) -> bool:
    """Whether ``target`` names the file itself, and no folder to put files into."""
    return source.is_file() and target.suffix.lower() == source.suffix.lower()


def _counts(path: Path) -> bool:
    """What engines leave beside their files, such as ``_SUCCESS``, is no data."""
    return not any(part.startswith((".", "_")) for part in path.parts)


def _require_one_kind(paths: list[Path]) -> None:
    kinds = {path.suffix.lower() for path in paths}
    if len(kinds) != 1 or not kinds <= {".parquet", ".csv"}:
        raise ApplicationError(
            f"The input has files of {len(kinds)} kinds, and has to have one: Parquet or CSV.",
            "What is left out would be neither changed nor checked.",
            "Give files whose names all end in .parquet, or all in .csv.",
        )


def _refuse_occupied(target: Path) -> None:
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ApplicationError(
            f"{target} is there already, and is no result of privkit.",
            "Its files would be taken for de-identified ones.",
            "Give a path where nothing is.",
        )


def _partition_keys(plan: DatasetPlan, name: str) -> list[str]:
    """Return the columns that stand in a path (``city=Berlin``). They stay, so the plan has to keep them."""
    keys = re.findall(r"([^/=]+)=[^/]*/", name)
    changing = [key for key in keys if key in plan.columns and not isinstance(plan.columns[key], NotPersonal)]
    if changing:
        raise MappingError(
            f"The folders are divided by {', '.join(changing)}, which the plan changes.",
            "Names of folders stay as they are.",
            "Write the data set without dividing it by that column, and then de-identify it.",
            columns=changing,
        )
    return keys


def _means(plan: DatasetPlan, paths: list[Path]) -> Mapping[str, Mapping[float, float]]:
    """Return the means of each microaggregated column, which has to be read as a whole before one value changes."""
    found = {}
    for name, technique in plan.techniques.items():
        if isinstance(technique, Microaggregate):
            counts: dict[float, int] = {}
            for value, count in counts_of(paths, name):
                number = understood(technique, value)
                if number is not None:
                    counts[float(number)] = counts.get(float(number), 0) + count
            found[name] = groups(counts, technique.k)
    return found
