"""The file of measured tables, `results.md`: a section for each script, which replaces its own."""

import re
from pathlib import Path

_FILE = Path(__file__).parent / "results.md"


def write_section(title: str, text: str) -> None:
    """Put a section under its title in place of the one that stands there."""
    before = _FILE.read_text(encoding="utf-8") if _FILE.exists() else ""
    sections = {part.split("\n", 1)[0]: part for part in re.split(r"^# ", before, flags=re.MULTILINE) if part}
    sections[title] = f"{title}\n\n{text.strip()}\n"
    _FILE.write_text("\n".join(f"# {part.strip()}\n" for part in sections.values()), encoding="utf-8")
