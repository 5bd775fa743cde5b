"""Reading an HTML page as a browser would: its tags, what it would load, and its text."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_ALT = re.compile(r'alt="[^"]{8,}"')
LOADING = {"src", "srcset", "href", "data", "action", "poster", "background", "xlink:href"}


@dataclass
class Page(HTMLParser):
    """A page that was read: `tags`, `links` (all that loads or leads somewhere), `events`, `styles` and `text`."""

    html: str
    tags: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in LOADING:
                self.links.append(value or "")
            if name.startswith("on"):
                self.events.append(name)
            if name == "style":
                self.styles.append(value or "")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "style":
            self.styles.append(data)
        self.text += data

    @property
    def barriers(self) -> list[str]:
        """What hinders somebody who does not see the page: skipped headings, unnamed or twice named parts."""
        found = [
            f"no alternative text: {tag[:80]}" for tag in re.findall(r"<img[^>]*>", self.html) if not _ALT.search(tag)
        ]
        levels = [int(tag[1]) for tag in self.tags if re.fullmatch("h[1-6]", tag)]
        found += [f"h{a} before h{b}" for a, b in itertools.pairwise(levels) if b > a + 1]
        found += [f"an empty head: {head}" for head in re.findall(r"<th[^>]*></th>", self.html)]
        labels = re.findall(r'role="region" aria-label="([^"]*)"', self.html)
        found += [f"two regions {label!r}" for label in set(labels) if labels.count(label) > 1 or not label]
        fields = len(re.findall(r"<(?:input|select)\b", self.html))
        return found + ["a field without a label"] * (fields - self.html.count("<label>"))

    @property
    def remote(self) -> list[str]:
        """Everything that the page would fetch from elsewhere."""
        addresses = re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", " ".join(self.styles))
        styled = [a or b for a, b in addresses]
        return [link for link in self.links + styled if not link.startswith(("data:", "#"))]
