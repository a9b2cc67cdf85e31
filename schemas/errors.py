"""The errors of Suibus. Each says in English and Chinese where, what was found, what was expected and what to do.

SuibusError            exit status 2: nothing was done
├── ContractError      a contract that cannot be read or used
├── InputError         a file, row or argument that cannot be accepted
├── UnavailableError   exit status 3: the broker, Spark or the lake is unavailable; nothing was lost, try again
└── StateError         the state folder or a table is not as Suibus left it
"""


def first_line(error: object) -> str:
    """The first line of an error message that is not blank; the repr of the error if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


class SuibusError(Exception):
    """An error with a message for the operator: ``en`` and ``zh`` have the same content."""

    exit_status = 2

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en, zh)
        self.en = en
        self.zh = zh

    def __str__(self) -> str:
        return f"{self.en}\n{self.zh}"


class ContractError(SuibusError):
    """A contract cannot be read or used; the last valid version stays in force."""


class InputError(SuibusError):
    """A file, a row or an argument cannot be accepted; nothing of it was."""


class UnavailableError(SuibusError):
    """A service that Suibus needs is unavailable. What was accepted is kept; the same command may be run again."""

    exit_status = 3


class StateError(SuibusError):
    """The state folder or a table is not as Suibus left it; nothing was changed."""
