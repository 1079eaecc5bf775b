"""Rule packs: dated, sourced legal baselines that a policy extends by name."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from privkit.policy.nodes import read_file
from privkit.policy.problems import Problem, nearest, paste, quoted
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


class Packs:
    """The packs that one policy extends, read once each, in the order in which they are laid over one another."""

    def __init__(self, folder: Path, problems: list[Problem]) -> None:
        self._folder, self._problems = folder, problems
        self._names = pack_names(folder)
        self.dates: dict[str, date] = {}
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
        if found.texts("sources") == ():
            reading.report(found.line_of("sources"), "sources is empty: a rule needs its source.", 'sources: ["..."]')
        as_of = found.day("as_of")
        if as_of is not None:
            self.dates[name] = as_of
        layer = read_sections(found, as_of)
        if layer.ages_from is not None:
            pack, line = layer.ages_from
            self.extend(pack, reading, line, ("child", "ages"))
        return layer
