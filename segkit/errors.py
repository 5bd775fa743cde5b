"""Every error that segkit raises on purpose, as one tree.

    SegkitError
    ├── InputError          what was given cannot be used; nothing was asked, nothing was paid
    │   ├── ProductsError   the products: a path, a column, an id, a title
    │   ├── PromptError     a prompt: its name, its placeholders
    │   ├── TaxonomyError   a taxonomy that was given, or an edit of it
    │   └── SettingsError   a parameter or an environment variable
    ├── RunError            a run folder: not there, damaged, owned by another process
    ├── ModelError          the model or its endpoint
    │   ├── EndpointError   it cannot be reached, or keeps failing; the run can be resumed
    │   └── RefusedError    it refuses for good: key, quota, model, request
    ├── StoppedError        the run was stopped in an orderly way: interrupt, a long wait
    │   ├── BudgetError     its cap on calls or dollars is reached
    │   ├── WaitingError    its batches are at work at the provider; the run goes on when they have ended
    │   └── DiskError       its disk fails
    ├── StageError          a stage of a run failed; the run can be resumed
    ├── StorageError        S3; what is on the local disk is untouched
    ├── DatabaseError       Postgres; the run folder is untouched
    └── RequestError        the REST service refuses a request; nothing was started

The message of an error is what is wrong, with the value; `hint` is what to do next. Neither ever holds a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SegkitError(Exception):
    """Base of all errors of segkit: a `message`, and a `hint` with the next thing to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all there is: an error of another process has its message, hint and facts here too."""
        return _unpickled, (type(self), self.args, self.__dict__)

    def _render_traceback_(self) -> list[str]:
        """Show the error in IPython as one line and the next step, not as a screen of frames."""
        return [f"{type(self).__name__}: {self.message}", *([f"  → {self.hint}"] if self.hint else [])]


def _unpickled(kind: type[SegkitError], arguments: tuple[Any, ...], facts: dict[str, Any]) -> SegkitError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(facts)
    return error


class InputError(SegkitError):
    """What was given cannot be used; nothing was asked of a model and nothing was paid."""


class ProductsError(InputError):
    """The products cannot be used: a path, a column, an id or a title."""


class PromptError(InputError):
    """A prompt cannot be used: its name, its size or its placeholders."""


class TaxonomyError(InputError):
    """A taxonomy that was given, or an edit of one, cannot be used; `faults` lists what is wrong with it."""

    def __init__(self, message: str, hint: str = "", faults: Sequence[str] = ()) -> None:
        super().__init__(message, hint)
        self.faults = tuple(faults) or (message,)


class SettingsError(InputError):
    """A parameter or an environment variable has a value that cannot be used."""


class RunError(SegkitError):
    """A run folder is missing, damaged, or owned by another process."""


class ModelError(SegkitError):
    """The model or its endpoint did not do what was asked."""


class EndpointError(ModelError):
    """The endpoint cannot be reached or keeps failing; done work is kept, the run can be resumed."""


class RefusedError(ModelError):
    """The endpoint refuses for good (key, quota, model, request); asking again would not help."""


class StoppedError(SegkitError):
    """The run was stopped in an orderly way (interrupt, budget, a long wait) and can be resumed."""


class BudgetError(StoppedError):
    """The run was stopped at its cap on calls or dollars."""


class WaitingError(StoppedError):
    """The run waits for batches that are at work at the provider; they go on without it."""


class DiskError(StoppedError):
    """The run was stopped since its disk fails."""


class StageError(SegkitError):
    """A stage of the run failed; what was paid for is kept, the run can be resumed."""

    cause = ""  # the class of the error that a notebook ended with


class StorageError(SegkitError):
    """S3 refused or could not be reached; what is on the local disk is untouched."""


class DatabaseError(SegkitError):
    """Postgres refused or could not be reached; the run folder is untouched."""


class RequestError(SegkitError):
    """The REST service refuses a request; nothing was started.

    `kind` names the case, like "queue-full": `segkit.service.http.problems` lists the kinds with their HTTP status.
    `details` are facts for programs, which the answer carries as fields of its own.
    """

    def __init__(self, kind: str, message: str, hint: str = "", **details: object) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.details = details
