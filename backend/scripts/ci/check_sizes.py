"""Gate: no module above 500 lines, no function above 60."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gate import Gate, Tree, Violation, clean_or_not, run
from gate_names import functions

MODULE_LINES = 500
FUNCTION_LINES = 60


def check(tree: Tree) -> Iterator[Violation]:
    """Yield every module and function that is too long."""
    for module in tree.select("app/*.py", "scripts/*.py", least=1):
        if module.line_count > MODULE_LINES:
            text = f"the module has {module.line_count} lines, at most {MODULE_LINES} are good; split it"
            yield module.violation(1, "SIZE-001", text)
        for function in functions(module.tree):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES:
                text = f"{function.name} has {lines} lines, at most {FUNCTION_LINES} are good; split it"
                yield module.violation(function, "SIZE-002", text)


GATE = Gate(
    "check_sizes",
    "SIZE",
    "Check the length of modules and functions.",
    check,
    clean_or_not,
    ("app", "scripts"),
)

if __name__ == "__main__":
    sys.exit(run(GATE))
