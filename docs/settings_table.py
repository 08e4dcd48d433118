"""The table of settings in README.md, made from the settings themselves.

python docs/settings_table.py            writes it into README.md
python docs/settings_table.py --check    exits with 1 where README.md is not in step
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from nextact_server.settings import MIB, Settings

README: Final = Path(__file__).resolve().parent.parent / "README.md"
BEGIN: Final = "<!-- settings: made by docs/settings_table.py -->"
END: Final = "<!-- settings end -->"


def table() -> str:
    """Returns the table as Markdown."""
    lines = ["| flag | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        flag = f"`--{name.replace('_', '-')}`"
        lines.append(f"| {flag} | {_value(field.default)} | {(field.description or '').replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def in_step(text: str) -> str:
    """Returns `text` with the table between its marks as it must be.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md must hold {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Writes or checks the table; returns the exit code."""
    text = README.read_text(encoding="utf-8")
    wanted = in_step(text)
    if "--check" in sys.argv[1:]:
        if text != wanted:
            print("README.md: the settings are not in step; run python docs/settings_table.py", file=sys.stderr)
        return int(text != wanted)
    README.write_text(wanted, encoding="utf-8")
    return 0


def _value(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case int() if value and value % MIB == 0:
            return f"{value} ({value // MIB} MiB)"
        case int():
            return str(value)
        case float():
            return f"{value:g}"
    return f"`{value}`"


if __name__ == "__main__":
    sys.exit(main())
