"""What the code knows better than a page: the table of methods, written anew into docs/methods/index.md.

python benchmarks/pages.py
"""

import sys
from pathlib import Path

from everlearn.method import FAMILIES, Method
from everlearn.methods import METHODS

PAGE = Path(__file__).parents[1] / "docs" / "methods" / "index.md"
START, END = "<!-- methods -->", "<!-- end of methods -->"


def table() -> str:
    """All methods by family, as Markdown."""
    lines = ["| name | idea | keeps | computes besides | needs |", "|---|---|---|---|---|"]
    for family in FAMILIES:
        named = [(name, cls) for name, cls in METHODS.items() if cls.card.family == family]
        lines += [f"| **{family}** | | | | |"] if named else []
        for name, cls in named:
            card = cls.card
            cells = (f"[{name}]({name}.md)", _idea(cls), card.stores, card.passes, ", ".join(card.needs))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _idea(cls: type[Method]) -> str:
    first = (sys.modules[cls.__module__].__doc__ or "").splitlines()[0]
    return first.removesuffix(".")


def written(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
