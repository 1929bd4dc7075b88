"""Print the requirements of one extra of a pyproject.toml, one a line: `requirements.py pyproject.toml cuda12`.

The images install these in a layer of their own, so that a change of the source does not install them again.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extra: str) -> list[str]:
    found = []
    for line in project["optional-dependencies"][extra]:
        others = own_extras(project, line)
        found += [each for other in others for each in requirements(project, other)] if others else [line]
    return found


def own_extras(project: dict[str, Any], line: str) -> list[str]:
    """The extras that a line such as `ndserve[cpu,store]` takes from the project itself."""
    match = re.fullmatch(re.escape(project["name"]) + r"\s*\[([^\]]+)\]", line.strip(), re.IGNORECASE)
    return [name.strip() for name in match[1].split(",")] if match else []


if __name__ == "__main__":
    table = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
    print("\n".join(table.get("dependencies", []) + requirements(table, sys.argv[2])))
