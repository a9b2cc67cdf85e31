"""The errors of Suibus: each says, in English and Chinese, where, what was found, what was expected, what to do.

SuibusError            exit status 2: nothing was done
├── ContractError      a contract that cannot be read or served
├── InputError         a file, row or argument that cannot be taken
├── UnavailableError   exit status 3: the broker, Spark or the lake is away; nothing was lost, try again
└── StateError         the state folder or a table is not as Suibus left it
"""


def first_line(error: BaseException) -> str:
    """The first line of an error that says something; its kind where none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


class SuibusError(Exception):
    """An error a person reads: ``en`` and ``zh`` say the same thing."""

    exit_status = 2

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en, zh)
        self.en = en
        self.zh = zh

    def __str__(self) -> str:
        return f"{self.en}\n{self.zh}"


class ContractError(SuibusError):
    """A contract cannot be read or served; the last good version stays in force."""


class InputError(SuibusError):
    """A file, a row or an argument cannot be taken; nothing of it was accepted."""


class UnavailableError(SuibusError):
    """Something outside is away. What was accepted is kept; the same command may be run again."""

    exit_status = 3


class StateError(SuibusError):
    """The state folder or a table is not as Suibus left it; nothing was changed."""
