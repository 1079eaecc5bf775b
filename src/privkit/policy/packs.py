"""Rule packs: dated, sourced legal baselines that a policy extends by name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from privkit.policy.nodes import read_file
from privkit.policy.problems import Problem, counted, nearest, paste, quoted, refusal
from privkit.policy.reading import Reading
from privkit.policy.sections import SECTIONS, Layer, read_sections

BASELINE_AGES = "consent-ages"
"""The pack whose ages hold where nothing that a policy extends gives a default age."""

_HEAD = {"privkit_pack": "1", "as_of": '"2026-11-25"', "sources": '["..."]'}


def packs_folder() -> Path:
    """Return where rule packs lie: inside the installed package, or in the source tree beside ``src``."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "policies" / "packs"
    return installed if installed.is_dir() else package.parents[1] / "policies" / "packs"


def pack_names(folder: Path | None = None) -> tuple[str, ...]:
    """Return the names of the packs that can be extended, sorted."""
    return tuple(sorted(path.stem for path in (folder or packs_folder()).glob("*.yaml")))


@dataclass(frozen=True, slots=True)
class Pack:
    """A rule pack as it stands: its sources and the day they were read, and how much it states.

    ``ages`` and ``rules`` about children; ``categories`` that it calls sensitive; ``uncertain``: the ages and rules of
    status ``U``, of which the stricter holds.
    """

    name: str
    as_of: date
    sources: tuple[str, ...]
    ages: int
    rules: int
    categories: int
    uncertain: tuple[str, ...]


def read_packs(folder: Path | None = None) -> tuple[Pack, ...]:
    """Return the packs that can be extended, by name. Raises PolicyError that lists every mistake in them."""
    problems: list[Problem] = []
    packs, found = Packs(folder or packs_folder(), problems), []
    for name in pack_names(folder):
        packs.extend(name, Reading("", problems), 0, ("extends",))
        layer, as_of = packs.layers[name], packs.dates.get(name, date.min)
        uncertain = [place for place, rules in layer.ages.items() if any(rule.status == "U" for rule in rules)]
        uncertain += [rule.name for rule in layer.child_rules.values() if rule.status == "U"]
        counts = len(layer.ages), len(layer.child_rules), len(layer.sensitive)
        found.append(Pack(name, as_of, packs.sources.get(name, ()), *counts, tuple(uncertain)))
    if problems:
        raise refusal(f"The rule packs have {counted(problems)}.", "Half a rule protects by half.", problems)
    return tuple(found)


class Packs:
    """The packs that one policy extends, read once each, in the order in which they are laid over one another."""

    def __init__(self, folder: Path, problems: list[Problem]) -> None:
        self._folder, self._problems = folder, problems
        self._names = pack_names(folder)
        self.dates: dict[str, date] = {}
        self.sources: dict[str, tuple[str, ...]] = {}
        self.layers: dict[str, Layer] = {}

    def extend(self, name: str, reading: Reading, line: int, key: tuple[str, ...]) -> None:
        """Read the pack called ``name``, and first the pack that it takes ages from."""
        if name in self.layers:
            return
        if name not in self._names:
            near = nearest(name, self._names)
            value = f"[{', '.join(near[:1])}]" if key == ("extends",) else "".join(near[:1])
            reading.report(line, f"There is no rule pack {quoted(name)}.", paste(key, value), near)
            return
        self.layers[name] = Layer()  # a pack that is being read cannot extend itself
        layer = self._read(name)
        del self.layers[name]
        self.layers[name] = layer

    def _read(self, name: str) -> Layer:
        path = self._folder / f"{name}.yaml"
        node = read_file(path, self._problems)
        reading = Reading(str(path), self._problems)
        found = None if node is None else reading.table(node, (), _HEAD, SECTIONS)
        if found is None:
            return Layer()
        found.integer("privkit_pack", 1, 1)
        sources = found.texts("sources")
        self.sources[name] = sources or ()
        if sources == ():
            reading.report(found.line_of("sources"), "sources is empty: a rule needs its source.", 'sources: ["..."]')
        as_of = found.day("as_of")
        if as_of is not None:
            self.dates[name] = as_of
        layer = read_sections(found, as_of)
        if layer.ages_from is not None:
            pack, line = layer.ages_from
            self.extend(pack, reading, line, ("child", "ages"))
        return layer
