"""The error a strategy raises for a user's mistake."""


class StrategyError(ValueError):
    """A user's mistake about a federation; the message says what is wrong and what to do."""
