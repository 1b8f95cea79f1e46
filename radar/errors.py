"""The two ways in which a run ends early on purpose; the command line prints either as one line."""


class InputError(ValueError):
    """What the user gave cannot be used: says what is wrong, the value and the valid choices (exit code 2)."""


class NonFiniteLoss(RuntimeError):  # noqa: N818 - named after the event
    """Training met a loss that is NaN or infinite (exit code 1)."""
