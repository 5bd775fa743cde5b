"""How the offline model groups: type phrases, anchors, and likeness by weighted words.

Products and categories are both read as units, so one procedure groups products and merges categories.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from segkit.llm.offline.words import (
    CONTAINERS,
    Bag,
    Clause,
    Word,
    dot,
    makers,
    mark,
    nouns_of,
    rarities,
    read_title,
    vector,
)

# Tuned together on shop catalogues of switches, craft supplies, fashion, department-store goods and coffee makers;
# the results are flat around these values (tests/benchmarks/offline_quality.py measures them).
_PLACES = (1.0, 0.9, 0.75)  # worth of the head noun, of the word before it, and of those further left
_COMMON = 0.25  # a word in more than this share of the phrases tells little, if other words can tell
_RARE = 0.3  # worth of a word that occurs once
_CORE, _LISTED = 0.1, 5.0  # factors for a word of the shop category itself, and for one of several that it lists
_LIGHT = 0.5  # a group of categories that weighs less is a rare kind
_STRANGE = 0.02  # a likeness up to this is none


class Unit(NamedTuple):
    """A product or category: its id, type phrase (head last), other words, and weight.

    The words of a category's name were chosen already, so they count twice (`times`). A category has the
    `examples` of its definition, a product is its own. A product has `marks`: its words, brand and units too; and
    the nouns with which its clauses end (`ends`).
    """

    key: str
    phrase: Clause
    context: Clause = ()
    weight: float = 1.0
    times: int = 1
    examples: tuple[str, ...] = ()
    marks: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()


class Group(NamedTuple):
    """Units of one kind, and the stem that names the kind (empty when no word does)."""

    anchor: str
    units: list[Unit]

    def words(self) -> list[Word]:
        """Give all words of its units."""
        return [word for unit in self.units for word in (*unit.phrase, *unit.context)]


def read_units(titles: Mapping[str, str]) -> list[Unit]:
    """Read each title (id → title) into a unit, with what the other titles tell about brands and head nouns."""
    read = {key: read_title(title) for key, title in titles.items()}
    brands = makers(read.values())
    seen = Counter(stem for clauses in read.values() for stem in {word.stem for part in clauses for word in part})
    ends = [nouns_of(clause, brands)[-1:] for clauses in read.values() for clause in clauses[:3]]
    heads = Counter(word.stem for end in ends for word in end)
    firsts = Counter(word.stem for parts in read.values() for one in parts[:1] for word in nouns_of(one, brands)[-1:])
    kinds = {stem: 1.0 for stem, count in firsts.items() if count >= max(3, 0.07 * len(read))}
    return [_read_unit(key, clauses, brands, heads, seen, kinds) for key, clauses in read.items()]


def _read_unit(
    key: str, clauses: Sequence[Clause], brands: frozenset[str], heads: Counter[str], seen: Counter[str], kinds: Bag
) -> Unit:
    """Take the first clause with a noun as the type phrase, up to its head; all other words are context."""
    marks = frozenset(mark(word) for clause in clauses for word in clause) - {""}
    last = frozenset(word.stem for clause in clauses for word in nouns_of(clause, brands)[-1:])
    for number, clause in enumerate(clauses):
        nouns = nouns_of(clause, brands)
        head = _head(nouns, heads)
        if head is None:
            continue
        later = [part for part in clauses[1:4] if any(word.stem in kinds for word in nouns_of(part, brands)[-1:])]
        if number == 0 and later and all(seen[word.stem] < 2 for word in nouns):
            clause, head = later[0], nouns_of(later[0], brands)[-1]
        words = [word for word in clause if word.weight > 0 and word.stem not in brands]
        end = max(place for place, word in enumerate(words) if word.stem == head.stem) + 1
        start = _lead(words[: end - 1], clauses[0], seen)
        others = [*words[:start], *words[end:], *(word for other in clauses if other is not clause for word in other)]
        return Unit(key, tuple(words[start:end]), tuple(w for w in others if w.weight > 0), 1.0, 1, (), marks, last)
    rest = tuple(word for clause in clauses for word in clause if word.weight > 0)
    return Unit(key, rest[-1:], rest[:-1], 1.0, 1, (), marks, last)


def _lead(words: Sequence[Word], clause: Clause, seen: Counter[str]) -> int:
    """How many words lead a title (two at most), begin with a capital and stand nowhere else: most likely a brand."""
    count = 0
    # One noun at least stays before the head.
    most = sum(word.weight > 0.5 for word in words) - 1
    for word, first in zip(words[: max(0, most)], clause[:2], strict=False):
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


def core_words(units: Sequence[Unit], category: str) -> frozenset[str]:
    """Say which words of `category` (if none is stated, which words at all) many of the units hold.

    A category whose words are in few titles ("Apparel") tells nothing.
    """
    held = Counter(stem for unit in units for stem in {word.stem for word in (*unit.phrase, *unit.context)})
    asked = {word.stem for clause in read_title(category) for word in clause if word.weight > 0}
    least = max(3.0, (0.2 if category else 0.5) * len(units))
    return frozenset(stem for stem, count in held.items() if count >= least and (stem in asked or not category))


def narrow(units: Sequence[Unit], category: str) -> Bag:
    """Give the core words if most of the units hold one: then the shop category is about one thing."""
    core = core_words(units, category) if category else frozenset[str]()
    held = sum(any(word.stem in core for word in (*unit.phrase, *unit.context)) for unit in units)
    # Of "Light and Dimmer Switches", the first two tell kinds apart.
    listed = re.split(r" (?:and|or|&) |, ", category)
    own = {word.stem for clause in read_title(listed[-1]) for word in clause[-1 if len(listed) > 1 else 0 :]}
    return {stem: _CORE if stem in own else _LISTED for stem in core} if held >= 0.4 * len(units) else {}


def group(units: Sequence[Unit], core: Mapping[str, float]) -> list[Group]:
    """Group units by their anchor, the word of the type phrase that says best what kind it is.

    The `core` of a shop category that is about one thing tells no kinds apart.
    """
    worth = _worth(units)
    worth |= {stem: worth[stem] * factor for stem, factor in core.items() if stem in worth}
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(_anchor(unit, worth), []).append(unit)
    return [Group(anchor, members) for anchor, members in groups.items()]


def _anchor(unit: Unit, worth: Mapping[str, float]) -> str:
    best, anchor = 0.0, ""
    for place, word in enumerate(reversed(unit.phrase)):
        # A colour or an audience names a kind only if nothing else does.
        weight = word.weight if word.weight >= 0.3 else 0.01 * word.weight
        score = _PLACES[min(place, 2)] * weight * worth[word.stem] * (0.3 if word.stem in CONTAINERS else 1.0)
        if score > best:
            best, anchor = score, word.stem
    return anchor


def _worth(units: Sequence[Unit]) -> Bag:
    """Say of each phrase word how well it tells kinds apart: it recurs and is not everywhere."""
    counts: Counter[str] = Counter()
    for unit in units:
        counts.update(dict.fromkeys((word.stem for word in unit.phrase), unit.times))
    total = sum(unit.weight for unit in units)
    weights, told = _weigh_words(units, counts)
    worth = {}
    for stem, weight in weights.items():
        recurs = math.log1p(weight) if counts[stem] > 1 else _RARE
        # A common word loses only as far as other recurring words of its phrases can take its place.
        share = weight / total * (told[stem] / weight) ** 2
        worth[stem] = recurs / (1 + (share / _COMMON) ** 3)
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


def settle(groups: Sequence[Group], most: int, limit: int, share: float) -> list[Group]:
    """Keep the `most` weightiest groups and give each other one to the kept group most like it.

    Groups that are like none stay too while there are fewer than `limit`. Returns the settled groups in the
    order of `groups`.
    """
    weights = [sum(unit.weight for unit in one.units) for one in groups]
    order = sorted(range(len(groups)), key=lambda i: (-weights[i], i))
    least = max(_LIGHT, share * sum(weights))
    kept = [i for i in order if weights[i] >= least][:most] or order[:1]
    strange = _attach(groups, kept, _STRANGE)[1]
    kept += [i for i in order if i in strange and weights[i] >= _LIGHT][: max(0, limit - len(kept))]
    gathered, _ = _attach(groups, kept, -1.0)
    return [Group(groups[i].anchor, units) for i, units in sorted(gathered.items())]


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


def join(groups: Sequence[Group], likeness: float, fewest: int) -> list[Group]:
    """Join the two groups that are most alike until none are alike enough, or only `fewest` are left.

    Large groups must be more alike than small ones, so that they do not swallow each other.
    """
    found = list(groups)
    while len(found) > fewest:
        bags = [_sum_bags(one.units, 1.5) for one in found]
        rarity = rarities(bags)
        vectors = [vector(words, rarity) for words in bags]
        weights = [sum(unit.weight for unit in one.units) for one in found]
        pairs = [(i, j) for i in range(len(found)) for j in range(i)]
        likenesses = {
            (i, j): dot(vectors[i], vectors[j]) * (1 - (weights[i] + weights[j]) / sum(weights)) for i, j in pairs
        }
        i, j = max(pairs, key=lambda pair: likenesses[pair])
        if likenesses[i, j] < likeness:
            break
        kept, other = (i, j) if weights[i] > weights[j] else (j, i)
        found[kept] = Group(found[kept].anchor, [*found[kept].units, *found[other].units])
        del found[other]
    return found


def _sum_bags(units: Iterable[Unit], context: float = 0.7) -> Bag:
    total: Bag = defaultdict(float)
    for stem, value in (
        pair for unit in units for pair in bag(unit, 3 * unit.weight, 2 * unit.weight, context).items()
    ):
        total[stem] += value
    return total


def bag(unit: Unit, head: float, modifier: float, context: float) -> Bag:
    """Weigh the words of a unit by where they stand: stem → weight."""
    found: Bag = defaultdict(float)
    for place, word in enumerate(reversed(unit.phrase)):
        found[word.stem] += word.weight * (modifier if place else head)
    for word in unit.context:
        found[word.stem] += word.weight * context
    return dict(found)


def fits(units: Sequence[Unit], current: Mapping[str, str], taxonomy: Iterable[Unit]) -> dict[str, dict[str, float]]:
    """Say how well each product fits each category: likeness to its line and to the other products in it."""
    lines = {one.key: bag(one, 6.0, 4.0, 1.5) for one in taxonomy}
    rarity = rarities(list(lines.values()))
    vectors = {key: vector(words, rarity) for key, words in lines.items()}
    own = {unit.key: vector(bag(unit, 3.0, 2.0, 0.7), rarity) for unit in units}
    sums: dict[str, Bag] = defaultdict(lambda: defaultdict(float))
    for unit in units:
        for stem, value in own[unit.key].items():
            sums[current[unit.key]][stem] += value
    counts = Counter(current[unit.key] for unit in units)

    def near(product: str, key: str) -> float:
        # A product is not company for itself; its likeness to itself is 1.
        alone = current[product] == key
        others = counts[key] - alone
        return (dot(own[product], sums[key]) - alone) / (others + 1) if others else 0.0

    return {i: {key: dot(mine, line) + near(i, key) for key, line in vectors.items()} for i, mine in own.items()}
