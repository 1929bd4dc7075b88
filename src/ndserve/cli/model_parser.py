"""What the commands take that are about models."""

from __future__ import annotations

import argparse

from ndserve.cli.arguments import Commands, add_command, count, model_name, span, whole_model
from ndserve.cli.exits import INSPECT_CODES

DEFAULT_MAX_BATCH = 32
"""The server's own default for --max-batch-size."""

FOLDER = """the folder alone:
  With --models DIR no server is asked: the list shows what lies there, and upload and delete change the folder. A
  server that serves it takes over what has changed. load, unload, pin and unpin need a server."""

ACTIONS = """  ndserve models                                what there is, its state, and the memory it takes
  ndserve models load digits                    have it ready before the first request
  ndserve models load digits/2 --timeout 1200   one version, which takes long
  ndserve models unload digits                  take it out of service
  ndserve models pin digits                     keep it in memory
  ndserve models unpin digits                   let it be evicted again
  ndserve models upload digits model.onnx       as the next version
  ndserve models upload digits/2 model.onnx --replace
  ndserve models delete digits/1                from the server's disk
  ndserve models --models my/models             what lies in a folder"""


def add_models(commands: Commands[argparse.ArgumentParser]) -> None:
    """`ndserve models` and its actions."""
    models = add_command(commands, "models", "list a server's models, or manage them", ACTIONS, FOLDER)
    _folder(models, None)
    actions = models.add_subparsers(dest="action", metavar="ACTION", title="actions; without one the models are listed")
    for name, text in (
        ("load", "load a model, and wait until it is ready"),
        ("unload", "take a model out of service, with all its versions"),
        ("pin", "keep a model in memory once it is loaded"),
        ("unpin", "let a model be evicted again when it is idle"),
    ):
        action = _action(actions, name, text, f"  ndserve models {name} digits")
        if name == "unload":
            action.add_argument("model", type=whole_model, metavar="NAME", help="the model")
        else:
            _model(action)
        if name == "load":
            _timeout(action, "how long the load may take")
    _upload(actions)
    _delete(actions)


def _upload(actions: Commands[argparse.ArgumentParser]) -> None:
    action = _action(
        actions,
        "upload",
        "put an ONNX file on the server as a version of a model",
        "  ndserve models upload digits model.onnx              as the version after the newest\n"
        "  ndserve models upload digits/3 model.onnx\n"
        "  ndserve models upload digits/3 model.onnx --replace  in place of what is there\n"
        "  ndserve models upload digits model.onnx --models my/models",
    )
    _model(action, "the model; without a version a new one")
    action.add_argument("file", metavar="FILE.onnx", help="the file; its weights must be inside")
    action.add_argument("--replace", action="store_true", help="overwrite the version that is there")
    _timeout(action, "how long the server may check it once it is there")


def _delete(actions: Commands[argparse.ArgumentParser]) -> None:
    action = _action(
        actions,
        "delete",
        "remove a model, or one version of it, from the server's disk",
        "  ndserve models delete digits/1\n"
        "  ndserve models delete digits --yes    all its versions, and without a question",
    )
    _model(action)
    action.add_argument("--yes", action="store_true", help="do not ask; needed where nobody can be asked")


def _action(actions: Commands[argparse.ArgumentParser], name: str, text: str, examples: str) -> argparse.ArgumentParser:
    action = add_command(actions, name, text, examples, nested=True)
    _folder(action, argparse.SUPPRESS)
    return action


def _model(action: argparse.ArgumentParser, text: str = "the model, or a version of it") -> None:
    action.add_argument("model", type=model_name, metavar="NAME[/VERSION]", help=text)


def _folder(command: argparse.ArgumentParser, default: str | None) -> None:
    command.add_argument(
        "--models", default=default, metavar="DIR", dest="folder", help="work on this model folder, without a server"
    )


def _timeout(action: argparse.ArgumentParser, text: str) -> None:
    action.add_argument("--timeout", type=span, default=600.0, metavar="SECONDS", help=f"{text} (600)")


def add_inspect(commands: Commands[argparse.ArgumentParser]) -> None:
    """`ndserve inspect`."""
    command = commands.add_parser(
        "inspect",
        help="show what a model file takes and gives, and how it would be served",
        description="Show what a model file takes and gives, and how it would be served. Neither a server nor"
        " onnxruntime is needed: the file is read and not run.",
        epilog="examples:\n"
        "  ndserve inspect model.onnx\n"
        "  ndserve inspect my/models/digits/1/model.onnx --json\n"
        "  ndserve inspect model.onnx --model-toml my/models/digits/model.toml\n\n"
        "batching:\n"
        "  off       tasks run alone, for the reason given\n"
        "  untested  a trial decides, when the model is loaded or on the first request: two inputs must give the same\n"
        f"            outputs apart and stacked\n\n{INSPECT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("file", metavar="FILE.onnx", help="the model")
    command.add_argument(
        "--model-toml", metavar="FILE", help="its options (the model.toml that a server would find for the file)"
    )
    command.add_argument(
        "--max-batch-size",
        type=count,
        default=DEFAULT_MAX_BATCH,
        metavar="N",
        help=f"the server's, for models whose options have none ({DEFAULT_MAX_BATCH})",
    )
    command.add_argument("--json", action="store_true", help="print one JSON document, for scripts")
