"""The embedded `offline` model: reads a rendered prompt, groups by words, and answers under the contract.

It is no language model. It knows the stage by the id lines of docs/contract.md, finds the noun phrase that names the
kind of product, and is deterministic. It needs nothing but the standard library, so importing it is cheap.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import zip_longest
from typing import Any, NamedTuple

from segkit.core.models import NONE_FITS, OUT_OF_SCOPE
from segkit.core.text import fold_name, name_fault
from segkit.llm.offline.grouping import Group, Unit, core_words, fits, group, join, narrow, read_units, settle
from segkit.llm.offline.words import (
    ACCESSORIES,
    CONTAINERS,
    Bag,
    heaviest,
    lower,
    plural,
    read_title,
    shop_name,
    stem_of,
    surface,
    usual,
)

_ID_LINE = re.compile(r"^\[([A-Z]+)_([0-9]+)\][ \t]*(.*)$", re.MULTILINE)
_ASSIGNED = re.compile(r"^(.*)→ (S_[0-9]+|OUT_OF_SCOPE) \(.*\)$")
_CATEGORY = re.compile(r"^(?:Product category|Department):[ \t]*(\S.*)$", re.MULTILINE)
_ALSO = re.compile(r"^List ([A-Z]+) also has: (.*)$", re.MULTILINE)
_TRAITS, _EXAMPLES = " whose titles mention ", " such as "
_NAMELESS = "General Merchandise"
_FEWEST, _MOST = 8, 40  # categories that a merge may keep, between these as many as one batch needs
_NARROW = 12  # and in a shop category about one thing
_ALIKE, _ENOUGH = 0.05, 4  # categories this much alike are joined while there are more than enough
_ALIKE_NARROW = 0.22  # and in a shop category about one thing, where all have words in common
_MARGIN, _RATIO = 0.1, 1.15  # a better fit must be better by both
_LIKE = 0.25  # the least likeness to a category of a product in it


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
    category = found.group(1) if found else ""
    products = {key: text for key, text in lines.items() if key.startswith("P_")}
    subcategories = {key: text for key, text in lines.items() if key.startswith("S_")}
    if not products or len(products) + len(subcategories) < len(lines):
        reply = _consolidate(lines, category, dict(_ALSO.findall(prompt)))
    elif subcategories:
        placed = all(_shown(text, subcategories) for text in products.values())
        reply = (_refine if placed else _assign)(products, subcategories, category)
    else:
        reply = _extract(products, category)
    return json.dumps(reply, ensure_ascii=False)


def _extract(titles: Mapping[str, str], category: str) -> dict[str, Any]:
    units = read_units(titles)
    strange = _out_of_scope(units, core_words(units, category))
    core = narrow(units, category)
    groups = group([unit for unit in units if unit.key not in strange], core)
    described = _describe(groups, shop_name(category, core), category)
    placed: dict[str, dict[str, Any]] = {key: {"category": OUT_OF_SCOPE, "confidence": 0.6} for key in strange}
    homes = {unit.key: f"C_{index}" for index, one in enumerate(described) for unit in one.units}
    lines = [_category_unit(f"C_{index}", f"{one.name}: {one.definition}") for index, one in enumerate(described)]
    found = fits([unit for unit in units if unit.key in homes], homes, lines)
    for one in described:
        for unit in one.units:
            home = homes[unit.key]
            placed[unit.key] = {"category": home, "confidence": _confidence(unit, one, found[unit.key], home)}
    return {"categories": _listed("C", described), "assignments": {key: placed[key] for key in titles}}


def _listed(letter: str, found: Sequence[Described]) -> list[dict[str, str]]:
    return [{"id": f"{letter}_{i}", "name": one.name, "definition": one.definition} for i, one in enumerate(found)]


def _confidence(unit: Unit, described: Described, scores: Mapping[str, float], home: str) -> float:
    """Rate an assignment by the name in the type phrase, by company, and by the margin to the next category."""
    named = {word.stem for clause in read_title(described.name) for word in clause}
    share = len(named & {word.stem for word in unit.phrase}) / max(1, len(named))
    margin = scores[home] - max((score for key, score in scores.items() if key != home), default=0.0)
    support = max(0.0, share + 0.3 * math.log(len(described.units)) + 0.5 * margin)
    return round(0.95 - 0.55 / math.pow(1 + support, 1.5), 2)


def _out_of_scope(
    units: Sequence[Unit], core: frozenset[str], known: frozenset[str] = frozenset(), most: float = 0.9
) -> set[str]:
    """Find products whose type phrase holds no word that is `known`, of the core, or of another's type phrase.

    Beside that, little else in the title may be familiar (at most `most`, less if a core word is in it): a mark
    counts for one if every tenth other title has it. If many are strange, the core is no measure and none is.
    """
    accessories = _accessories(units, core)
    nouns = {unit.key: [word.stem for word in unit.phrase if word.weight > 0.4] for unit in units}
    kinds = Counter(stem for stems in nouns.values() for stem in set(stems) - CONTAINERS)
    marks = Counter(stem for unit in units for stem in unit.marks)
    found = set()
    for unit in units:
        own = [stem for stem in nouns[unit.key] if stem not in CONTAINERS]
        # "Coffeemaker" is about coffee; a coffee table is no coffee maker.
        cored = {stem for stem in own if any(part in stem for part in core)}
        if not own or own[-1] in cored or any(kinds[stem] > 1 or stem in known for stem in own if stem not in cored):
            continue
        familiar = sum(usual(stem, (marks[stem] - 1) / len(units)) for stem in unit.marks - core)
        near = any(part in word.stem for part in core for word in unit.context)
        if len(unit.marks) > 1 and familiar <= (most / 2 if cored or near else most):
            found.add(unit.key)
    return accessories | (
        found - accessories if core and len(found - accessories) <= 1 + 0.15 * len(units) else set()
    )


def _accessories(units: Sequence[Unit], core: frozenset[str]) -> set[str]:
    """Find products that only serve those of a shop category about one thing, as a switch box serves a switch.

    Their type phrase ends in such a word, and none of their clauses ends in a core word, as in "Switch with Plate".
    """
    found = {
        unit.key
        for unit in units
        if unit.phrase and unit.phrase[-1].stem in ACCESSORIES - core and not unit.ends & core
    }
    return found if core and len(found) <= 0.5 * len(units) else set()


def _describe(groups: Iterable[Group], shop: str, category: str, many_lists: bool = False) -> list[Described]:
    """Name and define groups; those that would get the same name become one, and none is called as all of them."""
    named: dict[str, Group] = {}
    names: dict[str, str] = {}
    whole = [word.stem for clause in read_title(category) for word in clause]
    for one in groups:
        name = _name(one, shop, many_lists)
        if [word.stem for clause in read_title(name) for word in clause] == whole:
            name = f"Standard {name}"
        key = fold_name(name)
        names.setdefault(key, name)
        named[key] = Group(one.anchor, [*named[key].units, *one.units]) if key in named else one
    return [Described(names[key], _define(names[key], one), one.units) for key, one in named.items()]


def _name(one: Group, shop: str, many_lists: bool) -> str:
    """Name a group by its anchor with the words that mostly stand around it, up to the commonest head noun.

    Where heads differ too much, the words of the `shop` category take their place ("Cold Brew Coffee Makers").
    """
    before, after, heads = _around(one)
    total = sum(heads.values())
    if not total:
        return _NAMELESS
    run, own = [one.anchor], [stem_of(word) for word in shop.split()]
    if heads[one.anchor] < 0.4 * total:
        run += heaviest(after, 0.5 * total)
        ends = {stem: weight for stem, weight in heads.items() if stem not in run}
        run += heaviest(ends, 0.3 * total if shop else 0.0) if heads[run[-1]] < 0.4 * total else []
    if many_lists:
        before = {stem: weight for stem, weight in before.items() if _is_known(stem, one)}
    lead = heaviest(before, 0.5 * total)
    if shop and run == [one.anchor] and not lead:
        # A head alone says little in a shop category about one thing.
        lead = heaviest(before, 0.3 * total) or heaviest({stem: before.get(stem, 0.0) for stem in own}, 0.1 * total)
    run = [stem for stem in lead if stem not in run] + run
    bare = heads[run[-1]] < (0.7 if len(run) == 1 else 0.3) * total or "-" in surface(run[-1], one.words())
    tail = shop.split() if own and run[-1] not in own and (bare or own[-1] in run) else []
    run = [stem for stem in run if not tail or stem not in own]
    words = [*(surface(stem, one.words()) for stem in run), *tail]
    name = " ".join([*words[:-1], plural(words[-1])])[:200].strip()
    return _NAMELESS if name_fault(name) else name


def _is_known(stem: str, one: Group) -> bool:
    """Report whether several lists have a word before the noun that names a group: in one it is mostly a brand."""
    holders = [unit for unit in one.units if any(word.stem == stem for word in unit.phrase)]
    return len({unit.key.partition("_")[0] for unit in holders}) > 1


def _around(one: Group) -> tuple[Bag, Bag, Bag]:
    """Weigh the words right before the anchor of a group, right after it, and the heads of its phrases."""
    bags: tuple[Bag, Bag, Bag] = (defaultdict(float), defaultdict(float), defaultdict(float))
    for unit in one.units:
        words = [word for word in unit.phrase if word.weight >= 0.3 or word is unit.phrase[-1]]
        stems = [word.stem for word in words]
        if one.anchor not in stems:
            continue
        place = stems.index(one.anchor)
        ends = [stem for stem in stems[place:] if stem == one.anchor or stem not in CONTAINERS]
        near = (stems[max(0, place - 1) : place], stems[place + 1 : -1][:1], ends[-1:])
        for found, stem in ((found, stem) for found, part in zip(bags, near, strict=True) for stem in part):
            found[stem] += unit.weight
    return bags


def _define(name: str, one: Group) -> str:
    """Define a category in a sentence: the words its units share, and up to three of their type phrases."""
    named = {word.stem for clause in read_title(name) for word in clause}
    counts: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for unit in one.units:
        words = [word for word in (*unit.phrase, *unit.context) if word.weight > 0.2 and word.stem not in named]
        counts.update({word.stem for word in words})
        texts |= {word.stem: lower(word.text) for word in words if word.stem not in texts}
    least = 2 if len(one.units) > 1 else 1
    traits = [stem for stem in sorted(counts, key=lambda stem: (-counts[stem], stem)) if counts[stem] >= least][:12]
    own = [unit.examples or (" ".join(lower(word.text) for word in unit.phrase[-3:]),) for unit in one.units]
    # One example of each unit before the second of any.
    phrases = dict.fromkeys(phrase for turn in zip_longest(*own) for phrase in turn if phrase)
    examples = list(phrases)[:3] or [name]
    start = f"{name}{_TRAITS}{', '.join(texts[stem] for stem in traits)}," if traits else name
    return f"{start}{_EXAMPLES}{', '.join(examples)}."


def _consolidate(lines: Mapping[str, str], category: str, known: Mapping[str, str]) -> dict[str, Any]:
    lists = Counter(fold_name(name) for names in known.values() for name in names.split("; "))
    if known:
        lists[""] = len(known.keys() | {key.partition("_")[0] for key in lines})
    units = [_category_unit(key, text, lists) for key, text in lines.items()]
    core = narrow(units, category)
    sizes = Counter(unit.key.partition("_")[0] for unit in units)
    most = min(_MOST, max(_FEWEST, round(1.1 * max(sizes.values(), default=0))))
    groups = group(units, core)
    settled = settle(groups, _NARROW, 0, 0.016) if core else settle(groups, most, _MOST, 0.01)
    settled = join(settled, _ALIKE_NARROW, 2 * _ENOUGH) if core else join(settled, _ALIKE, _ENOUGH)
    described = _describe(settled, shop_name(category, core), category, len(sizes) > 2)
    members = {unit.key: f"M_{index}" for index, one in enumerate(described) for unit in one.units}
    return {"categories": _listed("M", described), "members": {key: members[key] for key in lines}}


def _category_unit(key: str, text: str, lists: Mapping[str, int] | None = None) -> Unit:
    """Read a category line as a unit, weighing it by the words and examples of its definition and its `lists`.

    If the prompt does not tell the lists: it stands under the first that has it, so one in a late list is rare.
    """
    name, _, definition = text.partition(": ")
    start, _, examples = definition.removesuffix(".").partition(_EXAMPLES)
    traits = start.removesuffix(",").partition(_TRAITS)[2]
    phrase = tuple(word for clause in read_title(name) for word in clause if word.weight > 0)
    context = tuple(w for clause in read_title(f"{traits}, {examples or start}") for w in clause if w.weight > 0)
    size = 1.0 + examples.count(",")
    size += 0.5 * (traits.count(",") + 1) if traits and size > 1 else 0.0
    taxonomy = reduce(lambda number, letter: number * 26 + ord(letter) - 64, key.partition("_")[0][:6], 0)  # A is 1
    weight = size * (1 + lists[fold_name(name)]) / lists[""] ** 0.5 if lists else size / taxonomy**0.7
    return Unit(key, phrase, context, weight, 2, tuple(filter(None, examples.split(", "))))


def _refine(products: Mapping[str, str], subcategories: Mapping[str, str], category: str) -> dict[str, Any]:
    shown = {key: cut for key, text in products.items() if (cut := _shown(text, subcategories))}
    units = read_units({key: title for key, (title, _) in shown.items()})
    taxonomy = [_category_unit(key, text) for key, text in subcategories.items()]
    found = fits(units, {key: current for key, (_, current) in shown.items()}, taxonomy)
    strange = _out_of_scope(units, core_words(units, category), _kinds(subcategories), 1.6) if category else set()
    changes: list[dict[str, Any]] = []
    for unit in units:
        current, scores = shown[unit.key][1], found[unit.key]
        if unit.key in strange:
            if current != OUT_OF_SCOPE:
                changes.append({"product": unit.key, "category": OUT_OF_SCOPE, "confidence": 0.6})
            continue
        best = max(scores, key=lambda key: scores[key])
        if best != current and scores[best] > _MARGIN + _RATIO * scores.get(current, _MARGIN):
            sure = round(min(0.95, 0.55 + 0.5 * (scores[best] - scores.get(current, 0.0))), 2)
            changes.append({"product": unit.key, "category": best, "confidence": sure})
    return {"reassignments": changes}


def _assign(titles: Mapping[str, str], subcategories: Mapping[str, str], category: str) -> dict[str, Any]:
    """Put each product into the category whose line it is most like, if it is like one at all."""
    units = read_units(titles)
    taxonomy = [_category_unit(key, text) for key, text in subcategories.items()]
    found = fits(units, dict.fromkeys(titles, ""), taxonomy)
    strange = _out_of_scope(units, core_words(units, category), _kinds(subcategories), 1.6) if category else set()
    assignments: dict[str, dict[str, Any]] = {}
    for key, scores in found.items():
        best = max(scores, key=lambda each: scores[each])
        if scores[best] >= _LIKE:
            sure = round(min(0.95, 0.55 + 0.5 * scores[best]), 2)
            assignments[key] = {"category": best, "confidence": sure}
        else:
            assignments[key] = {"category": OUT_OF_SCOPE if key in strange else NONE_FITS, "confidence": 0.6}
    return {"assignments": {key: assignments[key] for key in titles}}


def _kinds(subcategories: Mapping[str, str]) -> frozenset[str]:
    """Return the words that name the kinds of products in the lines of subcategories."""
    clauses = [clause for line in subcategories.values() for clause in read_title(line.partition(_EXAMPLES)[0])]
    return frozenset(word.stem for clause in clauses for word in clause if word.weight > 0.4)


def _shown(text: str, subcategories: Mapping[str, str]) -> tuple[str, str] | None:
    """Cut a product line into its title and present category; the name in it decides where a title ends."""
    for key, line in subcategories.items():
        title, mark, name = text.rpartition(f"→ {key} (")
        if mark and line.startswith(f"{name[:-1]}: "):
            return title.strip(), key
    found = _ASSIGNED.match(text)
    return (found.group(1).strip(), found.group(2)) if found else None
