"""One check of a machine, as it is printed: state, what was checked, what was found, and what to do about it."""

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Check:
    """A check that was made. advice: what to do; empty where all is well."""

    state: str
    what: str
    found: str
    advice: str = ""

    def line(self, width: int) -> str:
        """Return the check as one line, its name padded to `width`."""
        return f"{self.state:4}  {self.what:{width}}  {self.found}{f'; {self.advice}' if self.advice else ''}"


def needed(what: str, found: str | None, advice: str, missing: str = FAIL) -> Check:
    """Return ok with what was found, or `missing` with the advice where nothing was."""
    return Check(OK, what, found) if found else Check(missing, what, "not found", advice)
