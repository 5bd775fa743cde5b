"""The embedded `offline` model: reads a rendered prompt, groups by words, and answers under the contract.

It is no language model. It knows the three stages by their id lines (CONTRACT.md), reads the kind of product
from the noun phrase of each title, and is deterministic: same prompt, same answer, in any process. It needs
nothing but the standard library, so importing it is cheap.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from segkit.llm.words import CONTAINERS, Clause, Word, display, plural, read_title

OUT_OF_SCOPE = "OUT_OF_SCOPE"
_ID_LINE = re.compile(r"^\[([A-Z]+)_(\d+)\][ \t]*(.*)$", re.MULTILINE)
_ASSIGNED = re.compile(r"^(.*) → (S_\d+|OUT_OF_SCOPE) \(.*\)$")
_CATEGORY = re.compile(r"^Product category:[ \t]*(\S.*)$", re.MULTILINE)
_MOST_CATEGORIES = 24


class Unit(NamedTuple):
    """What is grouped, a product or a category: its id, type phrase (head last), other words, and weight."""

    key: str
    phrase: Clause
    context: Clause
    weight: float


class Group(NamedTuple):
    """Units of one kind: the stems they share (head last) and the units."""

    stems: tuple[str, ...]
    units: list[Unit]


def answer(prompt: str) -> str:
    """Answer a rendered prompt with JSON text of the stage that its id lines show."""
    lines = {f"{letters}_{number}": text.strip() for letters, number, text in reversed(_ID_LINE.findall(prompt))}
    lines = dict(reversed(lines.items()))
    found = _CATEGORY.search(prompt)
    category = found.group(1) if found else ""
    products = {key: text for key, text in lines.items() if key.startswith("P_")}
    subcategories = {key: text for key, text in lines.items() if key.startswith("S_")}
    if len(products) + len(subcategories) < len(lines) or not products:
        reply = _consolidate(lines, category)
    elif any(_ASSIGNED.match(text) for text in products.values()):
        reply = _refine(products, subcategories)
    else:
        reply = _extract(products, category)
    return json.dumps(reply, ensure_ascii=False)


# ---- extract


def _extract(titles: dict[str, str], category: str) -> dict[str, Any]:
    units = _product_units(titles)
    groups = _grouped(units)
    return _extract_reply(groups, titles)


def _extract_reply(groups: list[Group], titles: dict[str, str]) -> dict[str, Any]:
    categories, placed = [], {}
    for index, (name, definition, group) in enumerate(_described(groups)):
        categories.append({"id": f"C_{index}", "name": name, "definition": definition})
        for unit in group.units:
            placed[unit.key] = {"category": f"C_{index}", "confidence": _confidence(unit, group)}
    return {"categories": categories, "assignments": {key: placed[key] for key in titles}}


def _confidence(unit: Unit, group: Group) -> float:
    held = {word.stem for word in unit.phrase}
    share = sum(stem in held for stem in group.stems) / max(1, len(group.stems))
    return round(0.5 + 0.4 * share + (0.05 if len(group.units) > 1 else 0.0), 2)


def _product_units(titles: dict[str, str]) -> list[Unit]:
    """Read each title into its type phrase and context, with what the other titles tell about brands and heads."""
    read = {key: read_title(title) for key, title in titles.items()}
    brands = _brands(list(read.values()))
    heads = Counter(
        clause[-1].stem for clauses in read.values() for clause in [_nouns(c, brands) for c in clauses][:3] if clause
    )
    return [_unit(key, clauses, brands, heads) for key, clauses in read.items()]


def _nouns(clause: Clause, brands: frozenset[str]) -> Clause:
    return tuple(word for word in clause if word.weight > 0.5 and word.stem not in brands)


def _brands(titles: list[tuple[Clause, ...]]) -> frozenset[str]:
    """Find words that stand (nearly) only at the start of titles, or only after one such word."""
    seen, first, last = Counter[str](), Counter[str](), Counter[str]()
    before: dict[str, set[str]] = defaultdict(set)
    for clauses in titles:
        words = [word for clause in clauses for word in clause]
        seen.update({word.stem for word in words})
        if clauses:
            first[clauses[0][0].stem] += 1
            last[clauses[0][-1].stem] += len(clauses[0]) > 1
        for left, right in zip([None, *words], words, strict=False):
            before[right.stem].add(left.stem if left else "")
    brands = {s for s, n in first.items() if n >= 0.7 * seen[s] and n > 1 and last[s] == 0}
    brands |= {
        s for s, lefts in before.items() if seen[s] > 1 and len(lefts) == 1 and lefts <= brands and not last[s]
    }
    return frozenset(brands)


def _unit(key: str, clauses: tuple[Clause, ...], brands: frozenset[str], heads: Counter[str]) -> Unit:
    """Choose the type phrase: the first clause up to its head noun."""
    for clause in clauses:
        nouns = _nouns(clause, brands)
        if not nouns:
            continue
        head = nouns[-1]
        if heads[head.stem] < 2:
            head = next((word for word in reversed(nouns) if heads[word.stem] > 2), head)
        if heads[head.stem] < 2 and len(nouns) == 1 and clause is not clauses[-1] and len(clause) == 1:
            continue
        words = [word for word in clause if word.stem not in brands and word.weight > 0]
        end = max(i for i, word in enumerate(words) if word.stem == head.stem)
        tail = tuple(words[:end]), words[end]
        context = tuple(w for c in clauses for w in (words[end + 1 :] if c is clause else c) if w.weight > 0)
        return Unit(key, (*tail[0], tail[1]), context, 1.0)
    rest = tuple(word for clause in clauses for word in clause if word.weight > 0)
    return Unit(key, rest[-1:], rest[:-1], 1.0)


def _grouped(units: Sequence[Unit]) -> list[Group]:
    """Group units by their anchor, the word of the type phrase that says best what kind it is."""
    worth = _worth(units)
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(_anchor(unit, worth), []).append(unit)
    return [Group((stem,) if stem else (), members) for stem, members in groups.items()]


def _anchor(unit: Unit, worth: dict[str, float]) -> str:
    best, anchor = 0.0, ""
    for place, word in enumerate(reversed(unit.phrase)):
        score = PL[min(place, 2)] * word.weight * worth.get(word.stem, 0.0)
        if word.stem in CONTAINERS:
            score *= CONT
        if score > best:
            best, anchor = score, word.stem
    return anchor


def _worth(units: Sequence[Unit]) -> dict[str, float]:
    """Say of each phrase word how well it tells kinds apart: it recurs, is not everywhere, and is no generic head."""
    total = sum(unit.weight for unit in units)
    weights: dict[str, float] = defaultdict(float)
    counts = Counter[str]()
    heads: dict[str, set[str]] = defaultdict(set)
    for unit in units:
        stems = {word.stem for word in unit.phrase}
        counts.update(stems)
        for stem in sorted(stems):
            weights[stem] += unit.weight
            heads[stem].add(unit.phrase[-1].stem)
    crossed: dict[str, float] = defaultdict(float)
    led: dict[str, float] = defaultdict(float)
    for unit in units:
        head = unit.phrase[-1].stem if unit.phrase else ""
        led[head] += unit.weight
        before = [word.stem for word in unit.phrase[:-1] if word.weight > 0.5]
        if before and (len(heads[before[-1]]) > 1 if GEN == "A" else counts[before[-1]] > 1):
            crossed[head] += unit.weight
    told: dict[str, float] = defaultdict(float)
    for unit in units:
        nouns = {word.stem for word in unit.phrase if word.weight >= SPW and counts[word.stem] > 1}
        for stem in {word.stem for word in unit.phrase}:
            if nouns - {stem}:
                told[stem] += unit.weight
    worth = {}
    for stem, weight in weights.items():
        common = 1 / (1 + (weight / total * (told[stem] / weight) ** SPLIT / COMMON) ** 3)
        generic = crossed[stem] / led[stem] if counts[stem] > 2 and led[stem] else 0.0
        recurs = math.log1p(weight) if counts[stem] > 1 else RARE
        worth[stem] = recurs * common * (1 - CROSS * generic**POW)
    return worth


COMMON, CROSS, RARE, CONT = 0.25, 0.95, 0.3, 0.3
GEN, POW = "A", 2
SPLIT, SPW = 2, 0.5

# ---- names


def _described(groups: list[Group]) -> list[tuple[str, str, Group]]:
    """Name and define each group; groups that would get the same name become one."""
    named: dict[str, tuple[str, Group]] = {}
    for group in groups:
        name = _name(group)
        key = " ".join(name.casefold().split())
        if key in named:
            group = Group(group.stems, named[key][1].units + group.units)
            name = named[key][0]
        named[key] = (name, group)
    return [(name, _definition(name, group), group) for name, group in named.values()]


def _surface(stem: str, units: Sequence[Unit]) -> str:
    texts = Counter(w.text for unit in units for w in (*unit.phrase, *unit.context) if w.stem == stem)
    return display(min(texts, key=lambda text: (-texts[text], text))) if texts else display(stem)


def _name(group: Group) -> str:
    """Name a group by the most common phrase that runs from its anchor to the head noun."""
    if not group.stems:
        return "General Goods"
    anchor = group.stems[-1]
    runs: dict[tuple[str, ...], float] = defaultdict(float)
    before: dict[str, float] = defaultdict(float)
    total = 0.0
    for unit in group.units:
        stems = [word.stem for word in unit.phrase]
        if anchor in stems:
            place = stems.index(anchor)
            runs[tuple(w.stem for w in unit.phrase[place:] if w.weight >= 0.3 or w is unit.phrase[-1])[:4]] += (
                unit.weight
            )
            total += unit.weight
            if place and unit.phrase[place - 1].weight >= 0.3:
                before[stems[place - 1]] += unit.weight
    run = max(runs, key=lambda r: (runs[r], -len(r), r), default=(anchor,))
    first = [stem for stem in sorted(before) if before[stem] > 0.6 * total and stem not in run]
    words = [_surface(stem, group.units) for stem in dict.fromkeys([*first, *run])]
    return " ".join([*words[:-1], plural(words[-1])])[:200].strip()


def _definition(name: str, group: Group) -> str:
    counts = Counter[str]()
    for unit in group.units:
        counts.update({w.stem for w in (*unit.phrase, *unit.context) if w.weight > 0.2 and w.stem not in group.stems})
    traits = sorted(counts, key=lambda s: (-counts[s], s))[:8]
    words = ", ".join(_surface(s, group.units).casefold() for s in traits if counts[s] > 1 or len(group.units) == 1)
    phrases = list(dict.fromkeys(" ".join(w.text for w in unit.phrase[-3:]).casefold() for unit in group.units))[:3]
    start = f"{name}, often with {words}" if words else name
    return f"{start}; e.g. {', '.join(phrases) or name}"


# ---- consolidate


def _consolidate(lines: dict[str, str], category: str) -> dict[str, Any]:
    units = [_category_unit(key, text) for key, text in lines.items()]
    groups = _settle(_grouped(units))
    members, categories = {}, []
    for index, (name, definition, group) in enumerate(_described(groups)):
        categories.append({"id": f"M_{index}", "name": name, "definition": definition})
        members |= {unit.key: f"M_{index}" for unit in group.units}
    return {"categories": categories, "members": {key: members[key] for key in lines}}


def _category_unit(key: str, text: str) -> Unit:
    name, _, definition = text.partition(": ")
    phrase = tuple(word for clause in read_title(name) for word in clause if word.weight > 0)
    start, _, examples = definition.partition("e.g. ")
    traits = start.partition("often with")[2]
    context = tuple(w for clause in read_title(traits + ", " + examples) for w in clause if w.weight > 0)
    count = 1 + examples.count(",")
    size = count + 0.5 * (traits.count(",") + 1 if traits and count > 1 else 0)
    return Unit(key, phrase, context, size / (_batch(key) + 1) ** AGE)


def _batch(key: str) -> int:
    """The number of the taxonomy that an id such as `AB_3` comes from."""
    number = 0
    for letter in key.partition("_")[0]:
        number = number * 26 + ord(letter) - 64
    return number - 1


def _settle(groups: list[Group]) -> list[Group]:
    """Keep the weighty groups and give each other group to the one that is most like it."""
    weights = [sum(unit.weight for unit in group.units) for group in groups]
    order = sorted(range(len(groups)), key=lambda i: (-weights[i], i))
    total = sum(weights)
    first = Counter(_batch(unit.key) for group in groups for unit in group.units)
    most = KM if MODE == 0 else int(min(KMAX, max(KMIN, KF * max(first.values()))))
    kept = [i for i in order if weights[i] >= max(KW, KS * total)][:most] or order[:1]
    bags = [_bag(group) for group in groups]
    rarity = _rarity(bags)
    vectors = [_unit_vector(bag, rarity) for bag in bags]
    gathered = {i: list(groups[i].units) for i in kept}
    for i in order:
        if i not in gathered:
            best = max(kept, key=lambda j: (_dot(vectors[i], vectors[j]), weights[j], -j))
            gathered[best].extend(groups[i].units)
    return [Group(groups[i].stems, units) for i, units in sorted(gathered.items())]


Bag = dict[str, float]


def _bag(group: Group) -> Bag:
    bag: Bag = defaultdict(float)
    for unit in group.units:
        for place, word in enumerate(reversed(unit.phrase)):
            bag[word.stem] += unit.weight * word.weight * (3.0 if place == 0 else 2.0)
        for word in unit.context:
            bag[word.stem] += 0.7 * word.weight
    return dict(bag)


def _rarity(bags: Sequence[Bag]) -> Bag:
    counts = Counter(stem for bag in bags for stem in bag)
    return {stem: math.log(len(bags) / count + 0.1) for stem, count in counts.items()}


def _unit_vector(bag: Bag, rarity: Bag) -> Bag:
    vector = {stem: value**0.5 * rarity.get(stem, 0.0) for stem, value in bag.items()}
    norm = math.sqrt(sum(value * value for value in vector.values())) or 1.0
    return {stem: value / norm for stem, value in vector.items()}


def _dot(left: Bag, right: Bag) -> float:
    if len(left) > len(right):
        left, right = right, left
    return sum(value * right[stem] for stem, value in left.items() if stem in right)


# ---- refine


def _refine(products: dict[str, str], subcategories: dict[str, str]) -> dict[str, Any]:
    shown = {key: match.groups() for key, text in products.items() if (match := _ASSIGNED.match(text))}
    units = _product_units({key: title for key, (title, _) in shown.items()})
    known = {key: _category_unit("A_0", text) for key, text in subcategories.items()}
    bags = {key: _bag2(unit, NH, NM, NC) for key, unit in known.items()}
    rarity = _rarity(list(bags.values()))
    mine = {unit.key: _bag2(unit, PH, PM, PC) for unit in units}
    placed = defaultdict(list)
    for unit in units:
        placed[shown[unit.key][1]].append(unit.key)
    vectors = {key: _unit_vector2(bag, rarity) for key, bag in bags.items()}
    pv = {key: _unit_vector2(bag, rarity) for key, bag in mine.items()}
    changes = []
    for unit in units:
        current = shown[unit.key][1]
        scores = {key: _dot(pv[unit.key], vector) for key, vector in vectors.items()}
        if FB:
            for key in scores:
                others = [_dot(pv[unit.key], pv[o]) for o in placed[key] if o != unit.key]
                if others:
                    scores[key] += FB * sum(others) / (len(others) + 1)
        best = max(scores, key=lambda key: scores[key])
        if best != current and scores[best] > MARGIN + RATIO * scores.get(current, 0.0):
            changes.append(
                {"product": unit.key, "category": best, "confidence": round(min(0.95, 0.5 + scores[best]), 2)}
            )
    return {"reassignments": changes}


def _bag2(unit, h, m, c):
    bag: Bag = defaultdict(float)
    for place, word in enumerate(reversed(unit.phrase)):
        bag[word.stem] += word.weight * (h if place == 0 else m)
    for word in unit.context:
        bag[word.stem] += c * word.weight
    return dict(bag)


def _unit_vector2(bag: Bag, rarity: Bag) -> Bag:
    vector = {stem: value**PW * rarity.get(stem, UNK) for stem, value in bag.items()}
    norm = math.sqrt(sum(value * value for value in vector.values())) or 1.0
    return {stem: value / norm for stem, value in vector.items()}


UNK = 0.0

MARGIN, RATIO = 0.1, 1.15
NH, NM, NC, PH, PM, PC, FB, PW = 6, 4, 1.5, 3, 2, 0.7, 1, 0.5

KW, KS, KM = 0.5, 0.004, 24

AGE = 1

MODE, KMAX, KMIN, KF = 1, 40, 8, 1

PL = (1.0, 0.8, 0.65)
