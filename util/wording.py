"""Numbers with their nouns, as every message says them."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as '1 patient' or '2 patients'; `plural` where no -s makes it."""
    return f"{number} {named(number, noun, plural)}"


def named(number: int, noun: str, plural: str | None = None) -> str:
    """Return the noun that goes with a number."""
    return noun if number == 1 else plural or f"{noun}s"


def vertebrae(number: int, kind: str = "") -> str:
    """Return a number of vertebrae of a kind, such as '1 healthy vertebra'."""
    kind = f"{kind} " if kind else ""
    return counted(number, f"{kind}vertebra", f"{kind}vertebrae")
