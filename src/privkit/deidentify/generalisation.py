"""Find the generalisation that reaches k with the least loss, of all that declared hierarchies allow.

    found = search(table, {"age": Bands((5, 10, 20)), "city": Levels(({"Ulm": "south", "Kiel": "north"},))}, k=5)
    list(found.apply([(34, "Ulm")]))                                     # [("[30, 35)", "Ulm")]

Every column is generalised to one level throughout (level 0 is the value itself, the last one ``*``), so the choices
form a lattice. Rows whose class stays too small are suppressed, up to a share. Going up, classes only merge, so what
needs too much suppression does so everywhere below: one check decides many choices (predictive tagging: El Emam et
al., JAMIA 2009; Kohlmayer et al., PASSAT 2012).

The loss of a value is (leaves - 1) / (values - 1), where leaves is how many of the column's values share its label
(Iyengar, KDD 2002), and 1 in a suppressed row; the loss of a table is the mean over all rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import nan, prod
from typing import TYPE_CHECKING, Any, cast

from privkit.deidentify.measures import Relation, ask, check_columns, expression, source
from privkit.errors import InvalidValue
from privkit.policy.problems import quoted

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]

TOP = "*"
_MOST_NODES = 10_000_000
_MOST_KEYS = 2**62


@dataclass(frozen=True, slots=True)
class Bands:
    """Numbers in bands between multiples of a width; a level for each width, which is a multiple of the one before.

    The text of a number, as a CSV file has it, counts as the number.
    """

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = pairwise((1, *self.widths))
        if not all(width > 0 and width % before == 0 for before, width in steps):
            raise InvalidValue(
                "The widths of Bands do not nest.", "", "Give multiples, for example Bands((5, 10, 20))."
            )

    def levels(self, name: str, values: Sequence[Any]) -> list[list[Any]]:
        """Return the label of each value at each level between the first and the last."""
        numbers = [_number(name, value) for value in values]
        return [[None if number is None else _band(number, width) for number in numbers] for width in self.widths]


@dataclass(frozen=True, slots=True)
class Levels:
    """Categories in larger ones: for each level what every value becomes. Without any, a value is kept or ``*``."""

    maps: tuple[Mapping[Any, str], ...] = ()

    def levels(self, name: str, values: Sequence[Any]) -> list[list[Any]]:
        """Return the label of each value at each level between the first and the last. NULL stays NULL."""
        for number, each in enumerate(self.maps, 1):
            lacking = sum(value is not None and value not in each for value in values)
            if lacking:
                raise InvalidValue(
                    f"{lacking} values of {quoted(name)} have no place in level {number} of its hierarchy.",
                    "Passed through, they would stay as exact as they are.",
                    "Add them, or one that stands for all others.",
                    column=name,
                )
        return [[None if value is None else each[value] for value in values] for each in self.maps]


Hierarchy = Bands | Levels


@dataclass(frozen=True, slots=True)
class Generalisation:
    """The best generalisation: the level and the loss of each column, and how many rows it suppresses.

    ``nodes`` choices were possible, ``checked`` of them were tried out.
    """

    levels: dict[str, int]
    losses: dict[str, float]
    k: int
    rows: int
    suppressed: int
    nodes: int
    checked: int
    _labels: tuple[dict[Any, Any], ...] = field(repr=False)
    _kept: frozenset[tuple[Any, ...]] = field(repr=False)

    @property
    def loss(self) -> float:
        """Return the mean loss of all columns, from 0 to 1."""
        return sum(self.losses.values()) / len(self.losses)

    @property
    def label(self) -> str:
        """Return what may be said of the table that it makes."""
        return f"generalised to k >= {self.k}, {self.suppressed:,} of {self.rows:,} rows suppressed"

    def apply(self, rows: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, ...] | None]:
        """Return for each row, its values in the order of ``levels``, their labels; None where it is suppressed."""
        for row in rows:
            labels = tuple(known.get(_same(value), TOP) for known, value in zip(self._labels, row, strict=True))
            yield labels if labels in self._kept else None


def search(
    relation: Relation,
    hierarchies: Mapping[str, Hierarchy],
    *,
    k: int,
    distinct_l: int = 1,
    sensitive: str | None = None,
    person: str | None = None,
    suppression: float = 0.0,
) -> Generalisation:
    """Return the generalisation with the least loss whose classes all reach ``k``, and ``distinct_l`` of ``sensitive``.

    At most the share ``suppression`` of all rows may be suppressed. Classes count persons where ``person`` is named.
    Only distinct combinations of the columns are read. Raises InvalidValue where a hierarchy does not fit its column
    or nothing reaches the bounds.
    """
    if k < 1 or distinct_l < 1 or not 0 <= suppression < 1 or (distinct_l > 1 and sensitive is None):
        raise InvalidValue(
            "What is searched for makes no sense.",
            "",
            "Give k and distinct_l from 1 up, a suppression from 0 to below 1, and with distinct_l a sensitive column.",
        )
    lattice = _Lattice(relation, hierarchies, sensitive, person)
    lattice.bound(k, distinct_l, suppression)
    return lattice.best()


class _Lattice:
    """The distinct rows as numbers, and for each column and level which of its values share a label."""

    def __init__(
        self, relation: Relation, hierarchies: Mapping[str, Hierarchy], sensitive: str | None, person: str | None
    ) -> None:
        self.np = np = _numpy()
        self.names = check_columns(relation, list(hierarchies), sensitive, person)
        extra = [name for name in (sensitive, person) if name is not None]
        keys = ", ".join(expression(relation, name) for name in (*self.names, *extra))
        read = ask(relation, f"SELECT {keys}, COUNT(*) FROM {source(relation)} GROUP BY {keys}")
        if not read:
            raise InvalidValue("The table is empty.", "Nothing can reach k.", "Search a table that has rows.")
        *columns, counts = zip(*read, strict=True)
        encoded = dict(zip((*self.names, *extra), map(self._encoded, columns), strict=True))
        self.weights = np.array([int(count) for count in counts], dtype=np.int64)
        self.total = int(self.weights.sum())
        self.codes = [encoded[name][1] for name in self.names]
        self.sensitive = encoded[sensitive][1] if sensitive is not None else None
        self.person = encoded[person][1] if person is not None else None
        self.nobody = encoded[person][0].get(None, -1) if person is not None else -1
        self.values = [list(encoded[name][0]) for name in self.names]
        self.labels = [
            [values, *hierarchies[name].levels(name, values), [TOP] * len(values)]
            for name, values in zip(self.names, self.values, strict=True)
        ]
        self.groups = [[self._encoded(level)[1] for level in levels] for levels in self.labels]
        self.losses = [
            [self._loss(groups) for groups in self._nested(name, levels)]
            for name, levels in zip(self.names, self.groups, strict=True)
        ]
        self.seen: dict[tuple[int, ...], tuple[int, float]] = {}

    def bound(self, k: int, distinct_l: int, suppression: float) -> None:
        """Say what every class has to reach."""
        self.k, self.distinct_l, self.most = k, distinct_l, int(suppression * self.total + 1e-9)

    def _encoded(self, column: Sequence[Any]) -> tuple[dict[Any, int], Numbers]:
        known: dict[Any, int] = {}
        codes = [known.setdefault(_same(value), len(known)) for value in column]
        return known, self.np.array(codes, dtype=self.np.int64)

    def _nested(self, name: str, levels: list[Numbers]) -> list[Numbers]:
        for fine, coarse in pairwise(levels):
            pairs = set(zip(fine.tolist(), coarse.tolist(), strict=True))
            if len(pairs) != len(set(fine.tolist())):
                raise InvalidValue(
                    f"A level of the hierarchy of {quoted(name)} tells apart what the one before it does not.",
                    "Going up, classes have to merge.",
                    "Give the levels from the finest to the coarsest, each made of whole groups of the one before.",
                    column=name,
                )
        return levels

    def _loss(self, groups: Numbers) -> Any:
        return (self.np.bincount(groups)[groups] - 1) / max(1, len(groups) - 1)

    def _classes(self, node: Sequence[int]) -> Numbers:
        """Return for each distinct row the number of its class, from 0."""
        keys, size = self.np.zeros(len(self.weights), dtype=self.np.int64), 1
        for codes, levels, level in zip(self.codes, self.groups, node, strict=True):
            groups = levels[level]
            width = int(groups.max()) + 1
            if size * width > _MOST_KEYS:
                keys = self.np.unique(keys, return_inverse=True)[1]
                size = int(keys.max()) + 1
            keys, size = keys * width + groups[codes], size * width
        return cast("Numbers", self.np.unique(keys, return_inverse=True)[1])

    def _small(self, classes: Numbers) -> Any:
        """Return for each distinct row whether its class stays below a bound."""
        sizes = self.np.bincount(classes, weights=self.weights)
        if self.person is not None:
            known = self.person != self.nobody
            sizes = self.np.maximum(1, self._distinct(classes[known], self.person[known], len(sizes)))
        small = sizes < self.k
        if self.sensitive is not None:
            small |= self._distinct(classes, self.sensitive, len(sizes)) < self.distinct_l
        return small[classes]

    def _distinct(self, classes: Numbers, codes: Numbers, count: int) -> Any:
        width = int(codes.max(initial=0)) + 1
        return self.np.bincount(self.np.unique(classes * width + codes) // width, minlength=count)

    def _tried(self, node: tuple[int, ...]) -> tuple[int, float]:
        """Return how many rows a choice suppresses, and its loss."""
        if node not in self.seen:
            small = self._small(self._classes(node))
            suppressed = int(self.weights[small].sum())
            self.seen[node] = suppressed, sum(self._column_losses(node, small)) / len(node)
        return self.seen[node]

    def _column_losses(self, node: tuple[int, ...], small: Any) -> list[float]:
        kept = self.np.where(small, 0, self.weights)
        lost = self.total - int(kept.sum())
        each = zip(self.codes, self.losses, node, strict=True)
        return [(float(kept @ losses[level][codes]) + lost) / self.total for codes, losses, level in each]

    def best(self) -> Generalisation:
        """Try choices in the order of what they lose at least, and leave out all that a check decided already."""
        shape = tuple(map(len, self.groups))
        if prod(shape) > _MOST_NODES:
            raise InvalidValue(
                f"The hierarchies allow {prod(shape):,} choices.", "", "Search fewer columns, or fewer levels of them."
            )
        least = self._least()
        impossible = self.np.zeros(shape, dtype=bool)
        chosen, loss = None, float("inf")
        for flat in self.np.argsort(least, axis=None, kind="stable"):
            node = tuple(map(int, self.np.unravel_index(flat, shape)))
            if least[node] >= loss:
                break
            for each in self._boundary(node, impossible, least):
                if self._tried(each)[1] < loss:
                    chosen, loss = each, self._tried(each)[1]
        if chosen is None:
            raise InvalidValue(
                "No generalisation reaches the bounds.", "", "Lower them, or allow the suppression of more rows."
            )
        return self._answer(chosen, prod(shape))

    def _least(self) -> Any:
        """Return what each choice loses at least: a suppressed row only adds to it, and it grows going up."""
        least = self.np.zeros(())
        for codes, losses in zip(self.codes, self.losses, strict=True):
            column = [float(self.weights @ each[codes]) / self.total / len(self.codes) for each in losses]
            least = self.np.add.outer(least, self.np.array(column))
        return least

    def _boundary(self, node: tuple[int, ...], impossible: Any, least: Any) -> Iterator[tuple[int, ...]]:
        """Return the node where it is possible; else the lowest possible one on a chain from it to the top."""
        if impossible[node]:
            return
        chain = [node]
        if self._tried(node)[0] > self.most:
            while steps := [
                (*chain[-1][:at], level + 1, *chain[-1][at + 1 :])
                for at, level in enumerate(chain[-1])
                if level + 1 < impossible.shape[at]
            ]:
                chain.append(min(steps, key=lambda step: float(least[step])))
        low, high = -1, len(chain) - 1  # below low or at it all is impossible, above high or at it nothing is
        if self._tried(chain[high])[0] > self.most:
            low, high = high, high + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._tried(chain[middle])[0] > self.most:
                low = middle
            else:
                high = middle
        if low >= 0:
            impossible[tuple(slice(level + 1) for level in chain[low])] = True
        if high < len(chain):
            yield chain[high]

    def _answer(self, node: tuple[int, ...], nodes: int) -> Generalisation:
        small = self._small(self._classes(node))
        labels = [levels[level] for levels, level in zip(self.labels, node, strict=True)]
        kept = self.np.flatnonzero(~small)
        columns = [
            [names[code] for code in codes[kept].tolist()] for names, codes in zip(labels, self.codes, strict=True)
        ]
        return Generalisation(
            dict(zip(self.names, node, strict=True)),
            dict(zip(self.names, self._column_losses(node, small), strict=True)),
            self.k,
            self.total,
            int(self.weights[small].sum()),
            nodes,
            len(self.seen),
            tuple(dict(zip(values, names, strict=True)) for values, names in zip(self.values, labels, strict=True)),
            frozenset(zip(*columns, strict=True)),
        )


def _same(value: Any) -> Any:
    """Return a value by which it is found again: NaN is not equal to itself."""
    return nan if value != value else value


def _number(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise InvalidValue(
            f"Bands do not fit {quoted(name)}: a value is no number.", "", "Give Levels.", column=name
        ) from None


def _band(number: float, width: int) -> str:
    low = number // width * width
    return f"[{low:.15g}, {low + width:.15g})"


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise InvalidValue(
            "numpy is not installed.",
            "The search for a generalisation counts with it.",
            "pip install 'privkit[datasets]'",
        ) from None
    return numpy
