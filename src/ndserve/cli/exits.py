"""The exit codes, which scripts may rely on, and the errors that lead to them."""

from __future__ import annotations

DONE = 0
NOT_DONE = 1
USAGE = 2
UNREACHABLE = 3
REFUSED = 4
UNFINISHED = 5
INTERRUPTED = 130

SERVE_CODES = """exit codes of serve:
  0  ended well, after SIGTERM or Ctrl-C
  1  the device stopped answering, or a second signal cut the draining short
  2  an option is wrong, or the server cannot be started as configured
  3  the server could not start listening, or a model to preload did not load"""

CLIENT_CODES = """exit codes of the other commands:
  0    done
  1    the task failed, was cancelled or expired, or its result is gone; map: at least one file failed;
       models delete: it was not confirmed
  2    an option is wrong, a file cannot be read or written, or a package is missing
  3    the server cannot be reached
  4    the server refused: no key, unknown target or task, arrays that do not fit, queue or store full;
       models: no such model, a version that is there, a model that does not load, no room for it
  5    the task has not ended yet
  130  Ctrl-C; tasks that were submitted go on, and so does the loading of a model"""

INSPECT_CODES = """exit codes:
  0  done
  2  the file cannot be read, or is no model that can be served; a package is missing"""


class UsageError(Exception):
    """The command cannot be done as it was given: one line for the caller."""


def code_of(error: Exception) -> int:
    """The exit code for what a client raised."""
    from ndserve import client

    if isinstance(error, (client.TaskFailedError, client.GoneError)):
        return NOT_DONE
    if isinstance(error, client.ConnectionFailedError):
        return UNREACHABLE
    if isinstance(error, client.UnfinishedTaskError):
        return UNFINISHED
    return REFUSED if isinstance(error, client.ServerError) else USAGE
