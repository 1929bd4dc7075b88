"""Hand this machine's pip settings to a build in a container: `pip_settings.py OUT` writes them to OUT as one pip.conf.

Prints the absolute paths of what they name on this machine (CA bundle, constraints, folders of wheels), one a line: the
build needs them at the same places. The settings come from pip's files and from PIP_* variables; where none names a CA
bundle, the one that SSL_CERT_FILE and its like name is taken.
"""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

NOT_FOR_A_BUILD = {"cache-dir", "config-file", "log", "no-cache-dir", "prefix", "python"} | {
    "require-virtualenv",
    "root",
    "src",
    "target",
    "user",
}
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def machine_settings() -> dict[str, dict[str, str]]:
    """Section -> key -> value. A variable holds for every command, over what the files say."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings: dict[str, dict[str, str]] = defaultdict(dict)
    variables: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if key in NOT_FOR_A_BUILD:
            continue
        (variables if section == ":env:" else settings[section])[key] = ast.literal_eval(value)
    for values in settings.values():
        for key in variables:
            values.pop(key, None)
    settings["global"].update(variables)
    bundle = next((os.environ[name] for name in CA_VARIABLES if os.environ.get(name)), None)
    if bundle and "cert" not in settings["global"]:
        settings["global"]["cert"] = bundle
    return settings


def named_paths(settings: dict[str, dict[str, str]]) -> set[Path]:
    paths = set()
    for values in settings.values():
        for key, value in values.items():
            for found in re.findall(r"(?:^|\s|file://)(/\S+)", value):
                path = Path(found)
                # The pages of an index in a folder `simple` link to files in folders beside it.
                if key.endswith("index-url") and path.parent != Path("/"):
                    path = path.parent
                if path.exists():
                    paths.add(path)
    return paths


def main(out: str) -> None:
    settings = machine_settings()
    lines = []
    for section, values in settings.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = " + "\n    ".join(value.split("\n")) for key, value in values.items()]
    Path(out).write_text("\n".join(lines) + "\n")

    print("\n".join(sorted(str(path) for path in named_paths(settings))))


if __name__ == "__main__":
    main(sys.argv[1])
