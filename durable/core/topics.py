"""Topics: the names under which entries listen for an outcome that is not theirs."""


def output_topic(id: str) -> str:
    """The topic of an invocation's outcome."""
    return f"output/{id}"


#: How the detail of a call begins that joined an invocation instead of starting one.
JOINED = output_topic("")


def promise_topic(service: str, key: str, name: str) -> str:
    """The topic of a workflow's promise. A service's name has no slash (`registry.check_names`)."""
    return f"promise/{service}/{len(key)}/{key}/{name}"
