"""Failures that a worker reports, as exceptions of this process."""

import json

from groupconv.errors import BY_STATUS, GroupconvError, InternalError


class WorkerError(InternalError):
    """An unexpected exception of the worker; its traceback is for the log."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        super().__init__(name)


def failure(reported: bytes) -> GroupconvError:
    """The exception for the body of a FAILED frame."""
    fields = json.loads(reported)
    if "status" in fields:
        return BY_STATUS[fields["status"]](fields["message"])
    return WorkerError(fields["error"], fields["traceback"])
