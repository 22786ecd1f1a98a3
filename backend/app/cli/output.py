"""L2: what commands print, and how they end when they fail."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table


def show(data: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the members of an answer, one a line, or as JSON."""
    if as_json:
        typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
        return
    width = max(len(name) for name in data)
    for name, value in data.items():
        if value is not None:
            typer.echo(f"{name:<{width}}  {value}")


def show_list(items: Sequence[Mapping[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    """Print a table of some columns, or everything as JSON."""
    if as_json:
        typer.echo(orjson.dumps(items, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table(box=None)
    for column in columns:
        # An id that is cut off is of no use.
        table.add_column(column, overflow="fold")
    for item in items:
        table.add_row(*(str(item[column]) for column in columns))
    console = Console()
    if not console.is_terminal:
        # Whoever reads a pipe counts lines.
        console.width = 1000
    console.print(table)


def fail(message: str) -> NoReturn:
    """Say on standard error what is wrong and end with exit code 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)
