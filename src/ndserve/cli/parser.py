"""What the commands are called and take."""

from __future__ import annotations

import argparse
import math

from ndserve import __version__
from ndserve.cli.arguments import ENVIRONMENT, Commands, add_command, count, span, wait
from ndserve.cli.exits import CLIENT_CODES, SERVE_CODES
from ndserve.cli.model_parser import add_inspect, add_models

STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")

EXAMPLES = """examples:
  ndserve serve --models my/models              start a server
  ndserve submit digits digit.npy --wait        submit an array and show the result
  ndserve submit digits digit.npy               submit it and show the task's id
  ndserve result ID --wait 30 -o out.npy        fetch the result, for up to 30 seconds
  ndserve map digits 'images/*.png' -o out      one result file for every image
  ndserve tasks --state failed                  what went wrong
  ndserve models                                what is served, and how much memory it takes
  ndserve models upload digits model.onnx       serve one more version of a model
  ndserve inspect model.onnx                    what a model file takes and gives
  ndserve key alice >> keys.txt                 a key for `ndserve serve --api-keys-file keys.txt`
"""

FILES = """files:
  .npy and .npz; .png, .jpg and .jpeg as uint8 arrays of shape (height, width[, channels]), which needs Pillow;
  - reads .npy or .npz from stdin"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command but serve, which is listed only."""
    parser = argparse.ArgumentParser(
        prog="ndserve",
        description="Puts array code behind HTTP: post a NumPy array, get a task id, fetch the result.",
        epilog=f"{EXAMPLES}\n{ENVIRONMENT}\n\n{SERVE_CODES}\n\n{CLIENT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ndserve {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", add_help=False, help="serve models and processes over HTTP (serve --help for options)")
    _submit(commands)
    _result(commands)
    _map(commands)
    _tasks(commands)
    add_models(commands)
    add_inspect(commands)
    _key(commands)
    for name, text in (
        ("status", "show how a task is"),
        ("cancel", "end a task, or remove its result"),
        ("retry", "queue a failed task again"),
    ):
        command = add_command(commands, name, text, f"  ndserve {name} 0123456789abcdef0123456789abcdef")
        command.add_argument("id", metavar="ID", help="the task's id")
    return parser


def _submit(commands: Commands[argparse.ArgumentParser]) -> None:
    command = add_command(
        commands,
        "submit",
        "submit the arrays of a file to a model or a process",
        "  ndserve submit digits digit.npy --wait\n"
        "  ndserve submit digits photo.png --wait 10 --json\n"
        "  ndserve submit scale x.npy --param factor=10 --priority 9 -o scaled.npy\n"
        "  id=$(ndserve submit digits - < digit.npy)",
        FILES,
    )
    command.add_argument("target", metavar="TARGET", help="the model or process")
    command.add_argument("file", metavar="FILE", help="the input; see below")
    _fetching(command)
    _task_options(command)
    command.add_argument("--split", action="store_true", help="make one task of each item along axis 0")
    command.add_argument("--key", metavar="KEY", help="idempotency key: submitting twice with one key makes one task")


def _result(commands: Commands[argparse.ArgumentParser]) -> None:
    command = add_command(
        commands,
        "result",
        "show or save the result of a task",
        "  ndserve result 0123456789abcdef0123456789abcdef\n"
        "  ndserve result 0123456789abcdef0123456789abcdef --wait 30 -o out.npy",
    )
    command.add_argument("id", metavar="ID", help="the task's id")
    _fetching(command)


def _map(commands: Commands[argparse.ArgumentParser]) -> None:
    command = add_command(
        commands,
        "map",
        "run every file through a model or a process",
        "  ndserve map digits 'images/*.png' -o results\n"
        "  ndserve map digits 'images/*.png' -o results --resume     go on where it was interrupted\n"
        "  ndserve map scale a.npy b.npy -o scaled --param factor=10 --concurrency 32",
        "results:\n"
        "  FOLDER/STEM.npy, or .npz where there are several arrays; each appears when it is complete.\n"
        "  A file that fails is named at the end, and the rest is done.\n\n" + FILES,
    )
    command.add_argument("target", metavar="TARGET", help="the model or process")
    command.add_argument("files", metavar="FILES", nargs="+", help="files or quoted patterns such as 'in/**/*.npy'")
    command.add_argument(
        "-o", "--output", metavar="FOLDER", required=True, help="where the results go; made if missing"
    )
    command.add_argument("--concurrency", type=count, default=16, metavar="N", help="files under way at once (16)")
    command.add_argument("--resume", action="store_true", help="skip files whose result is there")
    _task_options(command)


def _tasks(commands: Commands[argparse.ArgumentParser]) -> None:
    examples = "  ndserve tasks\n  ndserve tasks --state failed --target digits --limit 10 --json"
    command = add_command(commands, "tasks", "list tasks, newest first", examples)
    command.add_argument("--state", choices=STATES, help="only these")
    command.add_argument("--target", metavar="TARGET", help="only those of this model or process")
    command.add_argument("--group", metavar="ID", help="only those of this group")
    command.add_argument("--limit", type=count, default=50, metavar="N", help="at most so many (50)")


def _key(commands: Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "key",
        help="make an API key and the line of a key file that lets it in",
        description="Make an API key: the line for the key file goes to stdout, and the key itself to stderr.",
        epilog="examples:\n"
        "  ndserve key alice >> keys.txt\n"
        "  ndserve key alice --role manage >> keys.txt\n"
        "  ndserve serve --api-keys-file keys.txt\n\n"
        "The file holds no key, only what a key is recognised by. SIGHUP has a running server read it again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("name", metavar="NAME", help="whose key it is: letters, digits and . _ -")
    command.add_argument(
        "--role", choices=("infer", "manage"), default="infer", help="manage may change what is served, too (infer)"
    )


def _fetching(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--wait",
        nargs="?",
        type=wait,
        const=math.inf,
        metavar="SECONDS",
        help="wait for the end: so long, or without a number as long as it takes",
    )
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write the result there, as .npy or .npz (several arrays); - for stdout. Makes submit wait",
    )


def _task_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("task")
    group.add_argument("--priority", type=int, choices=range(10), metavar="N", help="0 to 9; 9 goes first (5)")
    group.add_argument("--ttl", type=span, metavar="SECONDS", help="how long the result is kept")
    group.add_argument("--start-within", type=span, metavar="SECONDS", help="expire unless started by then")
    group.add_argument("--run-within", type=span, metavar="SECONDS", help="fail unless ended so long after the start")
    group.add_argument("--version", metavar="VERSION", help="the model's version")
    group.add_argument("--cast", action="store_true", help="convert the arrays to the target's dtypes")
    group.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the process; may be repeated"
    )
