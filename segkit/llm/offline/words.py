"""How the offline model reads a title: clauses, words, and which words can name a kind of product.

The kind of product is a noun phrase that ends the first clause, or stands right before "for" or "with" ("Acme Smart
Kettle with Thermometer, 1.7 L"). Everything here is general shop language, never the words of one kind of shop.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

_STOP = """a an the of and or & n nor if is are be it its this that these those your you my our we us all any each
every no not non only also more most very so than then up off out over under via per de la le el du des versatile
other others etc unknown none null na misc miscellaneous assorted various item items product products"""

_BREAKS = """for with without by from in on at to of into w wo works work working compatible fits fit featuring
features feature includes including include included contains containing made perfect ideal great suitable designed
requires required require needed need comes as like when while which who use used using support supports plus has have
ready"""

_COLOURS = """black white red blue green yellow orange purple pink brown grey gray beige ivory almond silver gold
golden navy maroon cream teal turquoise violet indigo lavender magenta cyan tan khaki olive charcoal peach coral
burgundy mustard rust copper bronze rose mint lime aqua multi multicolor multicolour multicolored colour color colours
colors colored coloured colorful colourful clear transparent matte glossy gloss satin brushed dark light bright neon
pastel natural nude off-white rainbow translucent tone toned shade hue"""

_UNITS = """pack packs pk pc pcs piece pieces ct count dozen pair pairs qty inch inches in ft foot feet yd yard yards
cm mm m km meter meters metre metres oz ounce ounces lb lbs pound pounds g gm gram grams kg mg l lt ltr liter litre
liters litres ml gal gallon gallons quart qt pint cup cups amp amps a volt volts v vac vdc watt watts w kw hp hz khz
ghz mhz mah ah lumen lumens lm k kelvin awg gauge ga deg degree degrees year years yr yrs month months week weeks day
days hour hours hr hrs minute minutes min sec second seconds age ages old size sizes sized small medium large xl xxl
xs xxxl s x by gb tb mb psi rpm btu cfm sq cu tier speed page pages sheet sheets set-of pack-of serving servings stage
stages mil mils ply fl tbsp bit bits way ways number no upc sku model version gen generation series grade"""

_AUDIENCE = """men mens man women womens woman ladies lady unisex kid kids child children boy boys girl girls baby
babies toddler toddlers infant infants adult adults teen teens family him her his hers mom dad mother father gift
gifts birthday christmas easter halloween valentine holiday holidays party favor favors everyone beginner beginners
artist artists professionals home office school indoor outdoor house household kitchen room everyday daily"""

_MARKETING = """new premium best deluxe pro ultra classic original genuine authentic luxury elegant stylish modern
vintage traditional basic basics essential essentials ultimate super mega mini max plus lite advanced improved quality
durable strong portable compact lightweight professional commercial residential industrial universal standard heavy
duty heavy-duty easy quick fast multi-purpose multipurpose multifunctional adjustable reusable washable safe certified
listed approved tested patented warranty guarantee ul etl cul fcc csa fda bpa rohs usda nsf ce iso organic eco
friendly eco-friendly free value bulk sale limited edition exclusive special fun cute cool beautiful amazing favorite
popular handmade handcrafted artisan high low full extra long short wide slim thin thick big little tall single double
dual triple quad two three four five six solid printed print casual formal regular assortment usa american china
german italian style styled design designs type kind designer fashion fashionable trendy chic replacement refill
original latest on-off ready lifetime superior select signature collection"""

_MATERIALS = """steel stainless metal metallic aluminum aluminium iron brass copper zinc titanium plastic pvc abs
polymer resin rubber silicone wood wooden bamboo oak walnut pine glass ceramic porcelain stoneware stone marble
granite cotton linen silk wool woolen polyester nylon denim leather suede velvet fleece canvas fabric cloth mesh satin
lace paper cardboard foam fiber fibre microfiber carbon acrylic vinyl"""

# Adjectives that end titles and clauses ("for sensitive"); those in -able, -less and -ous are known by their ends.
_ADJECTIVES = """electrical electric electronic automatic digital mechanical magnetic thermal natural herbal sensitive
manual optical active hot cold dry wet fresh warm oily soft hard round square flat pure smart wireless cordless
waterproof weatherproof ethnic sporty interactive educational decorative duplex instant
whole raw sweet salted spicy quiet silent mild"""

# Past participles that do not end in "-ed", and nouns that do.
_PARTICIPLES = "bound cut worn knit built woven broken frozen written drawn"
_NOUNS_IN_ED = "bed seed feed weed reed shed sled breed speed need bleed steed airbed seabed bobsled linseed aniseed"
_NOUNS_IN_ABLE = "table cable vegetable syllable consumable collectable wearable valuable"

# What serves, mounts, covers or feeds a product of almost any kind, and is none of it.
_ACCESSORIES = """box plate cover bracket mount holder outlet receptacle enclosure breaker raceway conduit cord
adapter charger cleaner cap lid strap hook rack organizer drawer sleeve wallplate faceplate frame connector screw
clamp gasket hinge remote"""

_CONTAINERS = "set sets kit kits bundle bundles collection collections combo combos assortment system systems"


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOP, BREAKS, CONTAINERS = _listed(_STOP), _listed(_BREAKS), _listed(_CONTAINERS)
ACCESSORIES = _listed(_ACCESSORIES)
_WEIGHTS = dict.fromkeys(_listed(_ADJECTIVES) | _listed(_PARTICIPLES), 0.45)
_WEIGHTS |= dict.fromkeys(_listed(_MATERIALS), 0.3)
_WEIGHTS |= dict.fromkeys(_listed(_MARKETING) | _listed(_AUDIENCE), 0.15)
_WEIGHTS |= dict.fromkeys(_listed(_COLOURS), 0.1)
_WEIGHTS |= dict.fromkeys(_listed(_UNITS) | STOP, 0.0)

_GLUED = re.compile(
    r"\b(slip|plug|pull|clip|roll|stick|lace|add|snap|screw|built|drop|walk|push|press|turn|pop|fold|make|pour|on)"
    r"[\s/](on|in|up|off|out|over)\b",
    re.IGNORECASE,
)
_PACK_OF = re.compile(r"\b(?:pack|set|box|case|lot|pair|bag|piece|count)s?\s+of\s+(?=\d)", re.IGNORECASE)
_SEPARATOR = re.compile(r"[,;|:()\[\]{}<>•·—…!?\"“”„*→=]+|\s[-–~/+]+\s|(?<=[^\W_]{5})\.\s|\s-|-\s")
# Vowel signs of Hindi, Thai and their relatives are no letters for `re`, and yet a part of a word.
_MARKS = "".join(chr(c) for c in range(0x300, 0x1B00) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
_LETTERS = rf"[^\W_](?:[^\W_]|[{_MARKS}])*"
_TOKEN = re.compile(rf"\d+(?:\.\d+)+\w*|{_LETTERS}(?:['’‘\-‐‑]{_LETTERS})*")
_NUMBER_WORD = re.compile(r"\d{1,2}-[a-z]{3,}$")


class Word(NamedTuple):
    """One word of a title: as written, its stem, and how well it can name a kind of product (0 to 1)."""

    text: str
    stem: str
    weight: float


Clause = tuple[Word, ...]
Bag = dict[str, float]  # stem → weight


@lru_cache(maxsize=32768)
def stem_of(word: str) -> str:
    """Fold case, accents, hyphens, possessives and plurals away: `T-Shirts` → `tshirt`."""
    word = re.sub(r"['’‘]s?$", "", unicodedata.normalize("NFKD", word).casefold())
    word = re.sub(r"[^\w]+", "", word)
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("lves"):
        return word[:-3] + "f"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


_NOUNS_IN_ED_, _NOUNS_IN_ABLE_ = _listed(_NOUNS_IN_ED), _listed(_NOUNS_IN_ABLE)
_STEM_WEIGHTS = {stem_of(word): weight for word, weight in _WEIGHTS.items()}


@lru_cache(maxsize=32768)
def weigh(text: str) -> float:
    """Say how well a word can name a kind of product: 0 for a stop word, a unit or a model number, 1 for a noun."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    if any(letter.isdigit() for letter in plain):
        named = _NUMBER_WORD.match(plain) and _STEM_WEIGHTS.get(stem_of(plain.split("-", 1)[1]), 1.0) > 0.5
        return 0.3 if named else 0.0
    if len(plain) < 2 or not any(letter.isalpha() for letter in plain):
        return 0.0
    listed = min(_WEIGHTS.get(plain, 1.0), _STEM_WEIGHTS.get(stem_of(plain), 1.0), 0.45 if _describes(plain) else 1.0)
    return min(listed, _compound(plain)) if "-" in plain else listed


def _describes(plain: str) -> bool:
    """Report whether the end of a word makes it a participle or an adjective: `ruled`, `washable`, `cordless`."""
    if plain.endswith("ed"):
        return len(plain) > 4 and plain not in _NOUNS_IN_ED_
    return len(plain) > 6 and plain.endswith(("able", "ible", "less", "ous")) and plain not in _NOUNS_IN_ABLE_


def _compound(plain: str) -> float:
    """A hyphenated word weighs no more than its last part, unless that is short: `Wi-Fi`, `Off-White`."""
    return max((_WEIGHTS.get(part, 1.0) for part in plain.split("-")), default=1.0)


@lru_cache(maxsize=32768)
def read_title(title: str) -> tuple[Clause, ...]:
    """Cut a title into clauses of words; the first clause with a word of weight mostly names the product."""
    text = _GLUED.sub(r"\1-\2", _PACK_OF.sub(" ", title[:2000]))
    letters = [letter for letter in text[:120] if letter.isalpha()]
    shouted = len(letters) > 8 and sum(letter.isupper() for letter in letters) > 0.7 * len(letters)
    clauses: list[Clause] = []
    for part in _SEPARATOR.split(text):
        clauses.extend(_clauses(part.title() if shouted else part))
    return tuple(clauses)


def _clauses(part: str) -> list[Clause]:
    """Cut one part of a title at words such as "for" and "with"."""
    found: list[list[Word]] = [[]]
    for match in _TOKEN.finditer(part):
        text = match.group()
        if text.casefold() in BREAKS:
            found.append([])
        elif text.casefold() not in STOP:
            found[-1].append(Word(text, stem_of(text), weigh(text)))
    return [tuple(clause) for clause in found if clause]


def shop_name(category: str, core: Mapping[str, float]) -> str:
    """Give the shop category as the end of a name: all of it if short and all core ("Coffee Makers"), or its head."""
    words = [word for clause in read_title(category) for word in clause]
    whole = len(words) < 3 and all(core.get(word.stem, 9) < 1 for word in words)
    return " ".join(word.text for word in (words if whole else words[-1:])) if core else ""


def nouns_of(clause: Clause, brands: frozenset[str]) -> Clause:
    """Give the words of a clause that can be the head of a noun phrase."""
    return tuple(word for word in clause if word.weight > 0.5 and word.stem not in brands)


def makers(titles: Iterable[tuple[Clause, ...]]) -> frozenset[str]:
    """Find brands and their lines: words that mostly begin titles, or stand behind one and the same such word."""
    seen, first, last = Counter[str](), Counter[str](), Counter[str]()
    before: dict[str, Counter[str]] = defaultdict(Counter)
    for clauses in titles:
        words = [word.stem for clause in clauses for word in clause]
        seen.update(set(words))
        first.update(words[:1])
        last.update(clause[-1].stem for clause in clauses[:1] if len(clause) > 1)
        for left, right in zip(["", *words], words, strict=False):
            before[right][left] += 1
    leads = {stem for stem, count in first.items() if 1 < count >= 0.7 * seen[stem] and not last[stem]}
    follows = {stem for stem, lefts in before.items() if seen[stem] > 1 and len(lefts) == 1 and lefts.keys() <= leads}
    lines = {stem for stem in before if first[stem] > 1 and _is_line(before[stem], leads, seen[stem])}
    return frozenset(leads | {stem for stem in follows | lines if not last[stem]})


def _is_line(lefts: Counter[str], leads: set[str], seen: int) -> bool:
    """Tell whether a word mostly begins titles or follows one brand, as `Diva` does and `Lutron Diva`."""
    makes = [left for left in lefts if left in leads]
    return len(makes) == 1 and lefts[""] + lefts[makes[0]] >= 0.55 * seen


def mark(word: Word) -> str:
    """Name a word as evidence of what a title is about; of `12-Cup`, the unit."""
    found = word.stem.lstrip("0123456789._")
    return found if len(found) > 1 else ""


def usual(stem: str, share: float) -> float:
    """Say how far a mark tells that a title is of the kind of the others: a colour does if a third of them has it."""
    return float(share > 0.3) if 0 < weigh(stem) < 0.5 else min(1.0, share / 0.1)


_IRREGULAR = {
    "mouse": "mice", "brush": "brushes", "foot": "feet", "tooth": "teeth", "knife": "knives", "shelf": "shelves",
    "loaf": "loaves", "leaf": "leaves", "scarf": "scarves", "calf": "calves", "half": "halves", "child": "children",
}  # fmt: skip
#: Nouns without a plural in a shop.
_MASS = _listed("""water dough clay chalk sand hair milk rice flour sugar salt honey tea coffee bread cheese butter
makeup glue yarn furniture luggage equipment jewellery jewelry clothing bedding lighting software hardware stationery
skincare haircare lingerie electronics apparel fruit meat pasta""")


def plural(text: str) -> str:
    """Write a noun in the plural, unless it is one or has none."""
    low = text.casefold()
    mass = ("s", "ware", "wear", "lry", "lery", "nery", "gear", "ness", "men", "feet", "care")
    end = next(
        (one for one in _IRREGULAR if low.endswith(one) and low[: -len(one)] in ("", "tooth", "hair", "book")), ""
    )
    if end:
        return text[: -len(end)] + (_IRREGULAR[end] if text[-len(end) :].islower() else _IRREGULAR[end].capitalize())
    if low in _MASS:
        return text
    if (low.endswith(mass) and not low.endswith("ss")) or (low.endswith("ing") and len(low) > 6):
        return text
    if not low.isascii() or not low[-1].isalpha():
        return text
    if low.endswith("y") and low[-2:-1] not in "aeiou":
        return text[:-1] + "ies"
    return text + ("es" if low.endswith(("ss", "sh", "ch", "x", "z")) else "s")


def display(text: str) -> str:
    """Write a word in Title Case, keeping abbreviations and mixed case: `wi-fi` → `Wi-Fi`, `LED` → `LED`."""
    keeps = text.isupper() and len(text) <= 4
    if keeps or not (text.islower() or text.isupper()):
        return text[:1].upper() + text[1:] if text[:2].islower() else text
    return "-".join(part[:1].upper() + part[1:].lower() for part in text.split("-"))


def surface(stem: str, words: Iterable[Word]) -> str:
    """How a word is written most often, in Title Case."""
    texts = Counter(word.text for word in words if word.stem == stem)
    return display(min(texts, key=lambda text: (-texts[text], text), default=stem))


def lower(text: str) -> str:
    """Write a word in lower case, keeping abbreviations and mixed case: `Dimmer` → `dimmer`, `LED` → `LED`."""
    return text if any(letter.isupper() for letter in text[1:]) else text.casefold()


def heaviest(weights: Mapping[str, float], least: float) -> list[str]:
    """Give the weightiest stem, if it weighs `least`."""
    found = min(weights, key=lambda stem: (-weights[stem], stem), default="")
    return [found] if found and weights[found] >= least else []


def rarities(bags: Sequence[Bag]) -> Bag:
    """Inverse document frequency of each stem (Spärck Jones 1972), a little above zero for one that is everywhere."""
    counts = Counter(stem for one in bags for stem in one)
    return {stem: math.log(len(bags) / count + 0.1) for stem, count in counts.items()}


def vector(words: Bag, rarity: Bag) -> Bag:
    """Damp, weigh by rarity and scale a bag to length 1; words without a rarity stay out."""
    values = {stem: math.sqrt(value) * rarity[stem] for stem, value in words.items() if stem in rarity}
    length = math.sqrt(sum(value * value for value in values.values())) or 1.0
    return {stem: value / length for stem, value in values.items()}


def dot(left: Bag, right: Bag) -> float:
    """Cosine of two vectors of length 1."""
    if len(left) > len(right):
        left, right = right, left
    return sum(value * right[stem] for stem, value in left.items() if stem in right)
