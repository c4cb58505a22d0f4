"""Names of merged models: ``"a + b"`` is the model that tasks a and b are added into."""

JOIN = " + "


def parts(name: str) -> list[str]:
    """Return the tasks that a merged model holds."""
    return name.split(JOIN)
