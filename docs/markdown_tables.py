"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def code(value: object) -> str:
    """`value` as code; nothing for nothing."""
    return f"`{value}`" if str(value) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, right: bool = False) -> str:
    """A table whose cells after the first one may stand to the `right`, as figures do."""
    rule = ["---", *(["---:" if right else "---"] * (len(head) - 1))]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in row)} |" for row in (head, rule, *rows)
    )
