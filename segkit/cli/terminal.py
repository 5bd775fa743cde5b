"""How the commands print: help in groups, pairs, tables and JSON; without pandas, which takes long to import."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import orjson
from typer.core import TyperCommand, TyperGroup

from segkit.display import is_numeric, json_value, terminal_text, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_PROSE = "definition"
_WIDE = 1000  # characters: wider than any table without prose


class GroupedCommand(TyperCommand):
    """A command whose help lists its options by their `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the groups of options, each description in full."""
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                rows.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        _write_groups(formatter, rows)


class CommandGroup(TyperGroup):
    """A group whose help lists its commands by their `rich_help_panel`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the groups of commands, each description in full."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            rows.setdefault(panel if isinstance(panel, str) else "Commands", []).append(
                (name, command.get_short_help_str(limit=200))
            )
        _write_groups(formatter, rows)


def _write_groups(formatter: Any, groups: Mapping[str, list[tuple[str, str]]]) -> None:
    for title, rows in groups.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def new_console() -> Console:
    """Write to standard output; what is not a terminal has no width, so nothing is broken there."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def pairs(rows: Mapping[str, Any]) -> Text:
    """Put names and values below one another; long values are never broken, so that a path can be copied."""
    from rich.text import Text

    texts = {name: terminal_text(value) for name, value in rows.items() if value not in ("", None)}
    width = max(map(len, texts), default=0) + 2
    lines = [Text.assemble((name.ljust(width), "dim"), text) for name, text in texts.items()]
    return Text("\n").join(lines)


def columns_of(rows: Iterable[Mapping[Any, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """Turn rows into columns; what a row does not have is missing."""
    rows = list(rows)
    return {name: [row.get(name) for row in rows] for name in names}


def print_table(columns: Mapping[Any, Iterable[Any]]) -> None:
    """Print columns side by side; in a terminal only prose is broken to fit it, an id or a path can be copied."""
    texts = {terminal_text(name): list(values) for name, values in columns.items()}
    if sys.stdout.isatty() and _PROSE in texts:
        _print_fitted(texts)
    else:
        print("\n".join(table_lines(texts)))


def table_lines(columns: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Write the rows of a table below one another, numbers to the right; a thousand take no time."""
    from rich.cells import cell_len

    texts = [[name, *map(terminal_text, values)] for name, values in columns.items()]
    widths = [max(map(cell_len, column)) for column in texts]
    right = [is_numeric(values) for values in columns.values()]
    for row in zip(*texts, strict=True):
        gaps = [" " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)]
        yield "  ".join(
            gap + text if side else text + gap for text, gap, side in zip(row, gaps, right, strict=True)
        ).rstrip()


def _print_fitted(columns: Mapping[str, Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, values in columns.items():
        side: Literal["left", "right"] = "right" if is_numeric(values) else "left"
        table.add_column(name, justify=side, overflow="fold", no_wrap=name != _PROSE)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(escape(terminal_text(value)) for value in row))
    Console(highlight=False).print(table)


def write_json(value: Any) -> None:
    """Write a value as JSON to standard output; what JSON does not have becomes text."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    write_bytes(orjson.dumps(json_value(value), default=str, option=options))


def write_bytes(data: bytes) -> None:
    """Write a file to standard output as it is; a terminal gets it with its control characters written out."""
    if sys.stdout.isatty():
        data = visible(data.decode("utf-8", "replace"), keep="\r\n\t").encode()
    sys.stdout.buffer.write(data)
