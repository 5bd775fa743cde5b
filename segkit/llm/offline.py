"""The embedded `offline` model: reads a rendered prompt, groups by words, and answers under the contract.

It is no language model. It knows the stage by the id lines (CONTRACT.md), finds the noun phrase that names the
kind of product, and is deterministic: same prompt, same answer, in any process and thread. It needs nothing but
the standard library, so importing it is cheap.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import zip_longest
from typing import Any, NamedTuple

from segkit.folding import fold_name, name_fault
from segkit.llm.grouping import Group, Unit, bag, group, join_singles, read_units, settle
from segkit.llm.words import Bag, display, dot, lower, plural, rarities, read_title, vector
from segkit.models import OUT_OF_SCOPE

_ID_LINE = re.compile(r"^\[([A-Z]+)_([0-9]+)\][ \t]*(.*)$", re.MULTILINE)
_ASSIGNED = re.compile(r"^(.*)→ (S_[0-9]+|OUT_OF_SCOPE) \(.*\)$")
_CATEGORY = re.compile(r"^Product category:[ \t]*(\S.*)$", re.MULTILINE)
_TRAITS, _EXAMPLES = "; typical words: ", "; e.g. "
_POOLED = " & More:"
_NAMELESS = "General Merchandise"
_FEWEST, _MOST = 8, 40  # categories that a merge may keep, between these as many as one batch needs
_MARGIN, _RATIO = 0.1, 1.15  # a better fit must be better by both


class Described(NamedTuple):
    """A category of an answer: name, definition, and the units in it."""

    name: str
    definition: str
    units: list[Unit]


def answer(prompt: str) -> str:
    """Answer a rendered prompt with the JSON text that its id lines ask for."""
    lines: dict[str, str] = {}
    for letters, number, text in _ID_LINE.findall(prompt):
        lines.setdefault(f"{letters}_{number}", text.strip())
    found = _CATEGORY.search(prompt)
    products = {key: text for key, text in lines.items() if key.startswith("P_")}
    subcategories = {key: text for key, text in lines.items() if key.startswith("S_")}
    if not products or len(products) + len(subcategories) < len(lines):
        reply = _consolidate(lines)
    elif subcategories:
        reply = _refine(products, subcategories)
    else:
        reply = _extract(products, found.group(1) if found else "")
    return json.dumps(reply, ensure_ascii=False)


def _extract(titles: Mapping[str, str], category: str) -> dict[str, Any]:
    units = read_units(titles)
    strange = _out_of_scope(units, category)
    described = _describe(join_singles(group([unit for unit in units if unit.key not in strange])))
    placed: dict[str, dict[str, Any]] = {key: {"category": OUT_OF_SCOPE, "confidence": 0.6} for key in strange}
    for index, one in enumerate(described):
        for unit in one.units:
            placed[unit.key] = {"category": f"C_{index}", "confidence": _confidence(unit, one)}
    return {"categories": _listed("C", described), "assignments": {key: placed[key] for key in titles}}


def _listed(letter: str, described: Sequence[Described]) -> list[dict[str, str]]:
    found = enumerate(described)
    return [{"id": f"{letter}_{i}", "name": one.name, "definition": one.definition} for i, one in found]


def _confidence(unit: Unit, described: Described) -> float:
    """More of the name's words in the type phrase, and company in the category, make it surer."""
    named = {word.stem for clause in read_title(described.name) for word in clause}
    share = len(named & {word.stem for word in unit.phrase}) / max(1, len(named))
    return round(0.5 + 0.35 * min(1.0, share) + (0.1 if len(described.units) > 1 else 0.0), 2)


def _out_of_scope(units: Sequence[Unit], category: str) -> set[str]:
    """Find products that share no noun with any other, in a batch that is about one thing and has few of these.

    What the batch is about are the words of `category`; if none is stated, what half of the titles hold. A
    category whose words are in few titles ("Apparel") tells nothing, so nothing is out of it.
    """
    nouns = {unit.key: {word.stem for word in (*unit.phrase, *unit.context) if word.weight > 0.5} for unit in units}
    counts = Counter(stem for stems in nouns.values() for stem in stems)
    asked = {word.stem for clause in read_title(category) for word in clause if word.weight > 0}
    least = max(3.0, (0.2 if category else 0.5) * len(units))
    core = {stem for stem, count in counts.items() if count >= least and (stem in asked or not category)}
    alone = {key for key, stems in nouns.items() if len(stems) > 1 and all(counts[stem] < 2 for stem in stems)}
    # "Coffeemaker" is about coffee.
    alone = {key for key in alone if not any(part in stem for part in core for stem in nouns[key])}
    return alone if core and len(alone) <= 1 + 0.15 * len(units) else set()


def _describe(groups: Iterable[Group]) -> list[Described]:
    """Name and define groups; those that would get the same name become one."""
    named: dict[str, Group] = {}
    names: dict[str, str] = {}
    for one in groups:
        name = _name(one)
        key = fold_name(name)
        names.setdefault(key, name)
        named[key] = Group(one.anchor, [*named[key].units, *one.units]) if key in named else one
    return [Described(names[key], _define(names[key], one), one.units) for key, one in named.items()]


def _name(one: Group) -> str:
    """Name a group by its commonest phrase from the anchor to the head noun, and the word that mostly precedes it."""
    runs: dict[tuple[str, ...], float] = defaultdict(float)
    before: dict[str, float] = defaultdict(float)
    for unit in one.units:
        stems = [word.stem for word in unit.phrase]
        if one.anchor in stems:
            place = stems.index(one.anchor)
            inner = tuple(word.stem for word in unit.phrase[place + 1 : -1] if word.weight >= 0.3)
            runs[tuple(dict.fromkeys((one.anchor, *inner[:2], stems[-1])))] += unit.weight
            for word in unit.phrase[max(0, place - 1) : place]:
                before[word.stem] += unit.weight * (word.weight >= 0.3)
    if not runs:
        return _NAMELESS
    run = min(runs, key=lambda stems: (-runs[stems] * (1.5 if len(stems) > 1 else 1.0), stems))
    first = min(before, key=lambda stem: (-before[stem], stem), default="")
    prefix = [first] if first not in run and before[first] > 0.5 * sum(runs.values()) else []
    words = [_surface(stem, one.units) for stem in (*prefix, *run)]
    name = " ".join([*words[:-1], plural(words[-1])])[:200].strip()
    return _NAMELESS if name_fault(name) else name


def _surface(stem: str, units: Sequence[Unit]) -> str:
    """How a word is written most often, in Title Case."""
    texts = Counter(word.text for unit in units for word in (*unit.phrase, *unit.context) if word.stem == stem)
    return display(min(texts, key=lambda text: (-texts[text], text))) if texts else display(stem)


def _define(name: str, one: Group) -> str:
    """Define a category by the words its units share and up to three of their type phrases."""
    named = {word.stem for clause in read_title(name) for word in clause}
    counts: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for unit in one.units:
        words = [word for word in (*unit.phrase, *unit.context) if word.weight > 0.2 and word.stem not in named]
        counts.update({word.stem for word in words})
        texts |= {word.stem: lower(word.text) for word in words if word.stem not in texts}
    least = 2 if len(one.units) > 1 else 1
    traits = [stem for stem in sorted(counts, key=lambda stem: (-counts[stem], stem)) if counts[stem] >= least][:8]
    own = [unit.examples or (" ".join(lower(word.text) for word in unit.phrase[-3:]),) for unit in one.units]
    # One example of each unit before the second of any.
    phrases = dict.fromkeys(phrase for turn in zip_longest(*own) for phrase in turn if phrase)
    examples = list(phrases)[:3] or [name]
    start = f"{name}{_TRAITS}{', '.join(texts[stem] for stem in traits)}" if traits else name
    return f"{start}{_EXAMPLES}{', '.join(examples)}"


def _consolidate(lines: Mapping[str, str]) -> dict[str, Any]:
    units = [_category_unit(key, text) for key, text in lines.items()]
    pooled = [unit for unit in units if _POOLED in lines[unit.key]]
    sizes = Counter(unit.key.partition("_")[0] for unit in units)
    most = min(_MOST, max(_FEWEST, round(1.1 * max(sizes.values(), default=0))))
    groups = group([unit for unit in units if _POOLED not in lines[unit.key]])
    settled, strange = settle(groups, most, _MOST)
    described = _describe(settled)
    described += _pool(strange, pooled, lines, {fold_name(one.name) for one in described})
    members = {unit.key: f"M_{index}" for index, one in enumerate(described) for unit in one.units}
    return {"categories": _listed("M", described), "members": {key: members[key] for key in lines}}


def _pool(
    strange: Sequence[Group], pooled: Sequence[Unit], lines: Mapping[str, str], taken: set[str]
) -> list[Described]:
    """Put rare kinds that are like no other, and those of earlier merges, into one, named after two of them."""
    units = [*(unit for one in strange for unit in one.units), *pooled]
    if not units:
        return []
    kinds = [_name(one) for one in strange]
    kinds += [kind for unit in pooled for kind in lines[unit.key].partition(_POOLED)[0].split(", ")]
    fresh = [kind for kind in dict.fromkeys(kinds) if fold_name(kind) not in taken]
    name = ", ".join(fresh[:2] or [_NAMELESS])[:200] + _POOLED[:-1]
    return [Described(name, _define(name, Group("", units)), units)]


def _category_unit(key: str, text: str) -> Unit:
    """Read a category line as a unit, weighing it by how many words and examples its definition needed.

    Categories of equal names are merged before they are shown, under the first taxonomy that has them; so
    a category that is first seen in a late taxonomy is a rare one and weighs less.
    """
    name, _, definition = text.partition(": ")
    start, _, examples = definition.partition(_EXAMPLES)
    traits = start.partition(_TRAITS)[2]
    phrase = tuple(word for clause in read_title(name) for word in clause if word.weight > 0)
    context = tuple(w for clause in read_title(f"{traits}, {examples or start}") for w in clause if w.weight > 0)
    size = 1.0 + examples.count(",")
    size += 0.5 * (traits.count(",") + 1) if traits and size > 1 else 0.0
    taxonomy = reduce(lambda number, letter: number * 26 + ord(letter) - 64, key.partition("_")[0][:6], 0)  # A is 1
    weight = size / taxonomy**0.7
    return Unit(key, phrase, context, weight, 2, tuple(filter(None, examples.split(", "))))


def _refine(products: Mapping[str, str], subcategories: Mapping[str, str]) -> dict[str, Any]:
    shown = {key: found for key, text in products.items() if (found := _shown(text, subcategories))}
    units = read_units({key: title for key, (title, _) in shown.items()})
    fits = _fits(units, {key: current for key, (_, current) in shown.items()}, subcategories)
    changes = []
    for unit in units:
        current, scores = shown[unit.key][1], fits[unit.key]
        best = max(scores, key=lambda key: scores[key])
        if best != current and scores[best] > _MARGIN + _RATIO * scores.get(current, _MARGIN):
            sure = round(min(0.95, 0.55 + 0.5 * (scores[best] - scores.get(current, 0.0))), 2)
            changes.append({"product": unit.key, "category": best, "confidence": sure})
    return {"reassignments": changes}


def _shown(text: str, subcategories: Mapping[str, str]) -> tuple[str, str] | None:
    """Cut a product line into its title and present category; the name in it decides where a title ends."""
    for key, line in subcategories.items():
        title, mark, name = text.rpartition(f"→ {key} (")
        if mark and line.startswith(f"{name[:-1]}: "):
            return title.strip(), key
    found = _ASSIGNED.match(text)
    return (found.group(1).strip(), found.group(2)) if found else None


def _fits(
    units: Sequence[Unit], current: Mapping[str, str], subcategories: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Say how well each product fits each category: likeness to its line and to the other products in it."""
    lines = {key: bag(_category_unit("A_0", text), 6.0, 4.0, 1.5) for key, text in subcategories.items()}
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

    return {
        product: {key: dot(mine, line) + near(product, key) for key, line in vectors.items()}
        for product, mine in own.items()
    }
