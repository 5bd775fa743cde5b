"""How the offline model groups: type phrases, anchors, and likeness by weighted words.

Products and categories are both read as units (a type phrase whose last word is the head noun, and context), so
one procedure groups products in a batch and categories in a merge.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from segkit.llm.words import CONTAINERS, Bag, Clause, Word, dot, rarities, read_title, vector

# Tuned together on shop catalogues of switches, craft supplies, fashion, department-store goods and coffee makers;
# the results are flat around these values (tests/benchmarks/offline_quality.py measures them).
_PLACES = (1.0, 0.8, 0.65)  # worth of the head noun, of the word before it, and of those further left
_COMMON = 0.25  # a word in more than this share of the phrases tells little, if other words can tell
_GENERIC = 0.95  # how much a head loses whose modifiers also stand before other heads ("machine")
_RARE = 0.3  # worth of a word that occurs once
_LIGHT = 0.5  # a group of categories that weighs less is a rare kind
_STRANGE, _ALIKE = 0.02, 0.17  # a likeness up to the first is none, above the second is plain


class Unit(NamedTuple):
    """A product or category: its id, type phrase (head last), other words, and weight.

    The words of a category's name were chosen already, so they count twice (`times`): as words that recur. A category
    has the `examples` of its definition, a product is its own.
    """

    key: str
    phrase: Clause
    context: Clause = ()
    weight: float = 1.0
    times: int = 1
    examples: tuple[str, ...] = ()


class Group(NamedTuple):
    """Units of one kind, and the stem that names the kind (empty when no word does)."""

    anchor: str
    units: list[Unit]


def read_units(titles: Mapping[str, str]) -> list[Unit]:
    """Read each title (id → title) into a unit, with what the other titles tell about brands and head nouns."""
    read = {key: read_title(title) for key, title in titles.items()}
    brands = _brands(read.values())
    seen = Counter(stem for clauses in read.values() for stem in {word.stem for part in clauses for word in part})
    ends = [_nouns(clause, brands)[-1:] for clauses in read.values() for clause in clauses[:3]]
    heads = Counter(word.stem for end in ends for word in end)
    return [_read_unit(key, clauses, brands, heads, seen) for key, clauses in read.items()]


def _nouns(clause: Clause, brands: frozenset[str]) -> Clause:
    return tuple(word for word in clause if word.weight > 0.5 and word.stem not in brands)


def _brands(titles: Iterable[tuple[Clause, ...]]) -> frozenset[str]:
    """Find words that stand (nearly) only at the start of titles, or only after one such word."""
    seen, first, last = Counter[str](), Counter[str](), Counter[str]()
    before: dict[str, set[str]] = defaultdict(set)
    for clauses in titles:
        words = [word.stem for clause in clauses for word in clause]
        seen.update(set(words))
        first.update(words[:1])
        last.update(clause[-1].stem for clause in clauses[:1] if len(clause) > 1)
        for left, right in zip(["", *words], words, strict=False):
            before[right].add(left)
    leads = {stem for stem, count in first.items() if 1 < count >= 0.7 * seen[stem] and not last[stem]}
    follows = (stem for stem, lefts in before.items() if seen[stem] > 1 and len(lefts) == 1 and lefts <= leads)
    return frozenset(leads | {stem for stem in follows if not last[stem]})


def _read_unit(
    key: str, clauses: tuple[Clause, ...], brands: frozenset[str], heads: Counter[str], seen: Counter[str]
) -> Unit:
    """Take the first clause with a noun as the type phrase, up to its head; all other words are context."""
    for number, clause in enumerate(clauses):
        head = _head(_nouns(clause, brands), heads)
        alone = head and heads[head.stem] < 2 and len(clause) == 1 and number + 1 < len(clauses)
        if head is None or alone:
            continue
        words = [word for word in clause if word.weight > 0 and word.stem not in brands]
        end = max(place for place, word in enumerate(words) if word.stem == head.stem) + 1
        start = _lead(words[: end - 1], clauses[0], seen)
        others = [*words[:start], *words[end:], *(word for other in clauses if other is not clause for word in other)]
        return Unit(key, tuple(words[start:end]), tuple(word for word in others if word.weight > 0))
    rest = tuple(word for clause in clauses for word in clause if word.weight > 0)
    return Unit(key, rest[-1:], rest[:-1])


def _lead(words: Sequence[Word], clause: Clause, seen: Counter[str]) -> int:
    """How many words lead a title (two at most), begin with a capital and stand nowhere else: most likely a brand."""
    count = 0
    for word, first in zip(words, clause[:2], strict=False):
        if word is not first or seen[word.stem] > 1 or not word.text[:1].isupper():
            break
        count += 1
    return count


def _head(nouns: Clause, heads: Counter[str]) -> Word | None:
    """The last noun, or a noun before it that often ends clauses when the last one never does elsewhere."""
    if not nouns or heads[nouns[-1].stem] > 1:
        return nouns[-1] if nouns else None
    # A short abbreviation that ends no other clause ("OK", a shade, a size) is no noun.
    spelt = [word for word in nouns if len(word.text) > 3 or not word.text.isupper()] or nouns
    return next((word for word in reversed(spelt) if heads[word.stem] > 2), spelt[-1])


def group(units: Sequence[Unit]) -> list[Group]:
    """Group units by their anchor, the word of the type phrase that says best what kind it is."""
    worth = _worth(units)
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(_anchor(unit, worth), []).append(unit)
    return [Group(anchor, members) for anchor, members in groups.items()]


def _anchor(unit: Unit, worth: Mapping[str, float]) -> str:
    best, anchor = 0.0, ""
    for place, word in enumerate(reversed(unit.phrase)):
        score = _PLACES[min(place, 2)] * word.weight * worth[word.stem] * (0.3 if word.stem in CONTAINERS else 1.0)
        if score > best:
            best, anchor = score, word.stem
    return anchor


def _worth(units: Sequence[Unit]) -> Bag:
    """Say of each phrase word how well it tells kinds apart: it recurs, is not everywhere, is no generic head."""
    counts: Counter[str] = Counter()
    for unit in units:
        counts.update(dict.fromkeys((word.stem for word in unit.phrase), unit.times))
    total = sum(unit.weight for unit in units)
    weights, told = _weigh_words(units, counts)
    generic = _generic(units)
    worth = {}
    for stem, weight in weights.items():
        recurs = math.log1p(weight) if counts[stem] > 1 else _RARE
        # A common word loses only as far as other recurring words of its phrases can take its place.
        share = weight / total * (told[stem] / weight) ** 2
        generality = generic.get(stem, 0.0) if counts[stem] > 2 else 0.0
        worth[stem] = recurs / (1 + (share / _COMMON) ** 3) * (1 - _GENERIC * generality**2)
    return worth


def _weigh_words(units: Sequence[Unit], counts: Counter[str]) -> tuple[Bag, Bag]:
    """Sum, for each phrase word, the weight of its units, and of those that hold another recurring noun."""
    weights: Bag = defaultdict(float)
    told: Bag = defaultdict(float)
    for unit in units:
        nouns = {word.stem for word in unit.phrase if word.weight >= 0.5 and counts[word.stem] > 1}
        for stem in sorted({word.stem for word in unit.phrase}):
            weights[stem] += unit.weight
            told[stem] += unit.weight if nouns - {stem} else 0.0
    return weights, told


def _generic(units: Sequence[Unit]) -> Bag:
    """Share of each head's weight where the noun before it also stands before or as other heads."""
    heads: dict[str, set[str]] = defaultdict(set)
    for unit in units:
        for word in unit.phrase:
            heads[word.stem].add(unit.phrase[-1].stem)
    all_weight: Bag = defaultdict(float)
    crossed: Bag = defaultdict(float)
    for unit in units:
        nouns = [word.stem for word in unit.phrase[:-1] if word.weight > 0.5]
        head = unit.phrase[-1].stem if unit.phrase else ""
        all_weight[head] += unit.weight
        crossed[head] += unit.weight if nouns and len(heads[nouns[-1]]) > 1 else 0.0
    return {head: crossed[head] / weight for head, weight in all_weight.items()}


def join_singles(groups: Sequence[Group]) -> list[Group]:
    """Give each group of one unit to the group of several that is clearly like it, if there is one."""
    kept = [i for i, one in enumerate(groups) if len(one.units) > 1]
    gathered, alone = _attach(groups, kept, _ALIKE)
    gathered |= {i: list(groups[i].units) for i in alone}
    return [Group(groups[i].anchor, units) for i, units in sorted(gathered.items())]


def settle(groups: Sequence[Group], most: int, limit: int) -> tuple[list[Group], list[Group]]:
    """Keep the `most` weightiest groups and give each other one to the kept group most like it.

    Groups that are like none stay too while there are fewer than `limit`. Returns the settled groups in the
    order of `groups`, and those for which there was no room.
    """
    weights = [sum(unit.weight for unit in one.units) for one in groups]
    order = sorted(range(len(groups)), key=lambda i: (-weights[i], i))
    least = max(_LIGHT, 0.004 * sum(weights))
    kept = [i for i in order if weights[i] >= least][:most] or order[:1]
    gathered, strange = _attach(groups, kept, _STRANGE)
    room = max(0, limit - len(gathered))
    stay = [i for i in order if i in strange and weights[i] >= _LIGHT][:room]
    gathered |= {i: list(groups[i].units) for i in stay}
    settled = [Group(groups[i].anchor, units) for i, units in sorted(gathered.items())]
    return settled, [groups[i] for i in strange if i not in stay]


def _attach(groups: Sequence[Group], kept: Sequence[int], least: float) -> tuple[dict[int, list[Unit]], list[int]]:
    """Add each group that is not kept to the kept one most like it; those less like any than `least` are left."""
    bags = [_sum_bags(one.units) for one in groups]
    rarity = rarities(bags)
    vectors = [vector(words, rarity) for words in bags]
    gathered, left = {i: list(groups[i].units) for i in kept}, []
    for i in sorted(set(range(len(groups))) - set(kept)):
        likeness, best = max(((dot(vectors[i], vectors[j]), -place) for place, j in enumerate(kept)), default=(0, 0))
        if likeness > least:
            gathered[kept[-best]].extend(groups[i].units)
        else:
            left.append(i)
    return gathered, left


def _sum_bags(units: Iterable[Unit]) -> Bag:
    total: Bag = defaultdict(float)
    for unit in units:
        for stem, value in bag(unit, 3.0 * unit.weight, 2.0 * unit.weight, 0.7).items():
            total[stem] += value
    return dict(total)


def bag(unit: Unit, head: float, modifier: float, context: float) -> Bag:
    """Weigh the words of a unit by where they stand: stem → weight."""
    found: Bag = defaultdict(float)
    for place, word in enumerate(reversed(unit.phrase)):
        found[word.stem] += word.weight * (modifier if place else head)
    for word in unit.context:
        found[word.stem] += word.weight * context
    return dict(found)
