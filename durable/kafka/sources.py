"""What a subscription is made of: a source, a sink and options, checked in Restate's order."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from durable.core.invocation import Flavor
from durable.errors import InvalidRequestError
from durable.runtime.registry import Registered, Registry, check_text

_CLUSTER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", re.ASCII)

#: What a broker takes for the name of a topic.
_TOPIC, _TOPIC_LENGTH = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII), 249


class Source(NamedTuple):
    """A topic of a cluster."""

    cluster: str
    topic: str


def source_of(uri: Any) -> Source:
    """Read `kafka://cluster/topic`. Raises `InvalidRequestError`."""
    check_text("source", uri)
    if _scheme(uri) != "kafka":
        raise InvalidRequestError(
            f"invalid source URI '{uri}': must have a scheme segment, with supported schemes: [kafka]."
        )
    cluster, topic = _named(uri)
    if not cluster or not topic:
        raise InvalidRequestError(
            f"invalid source URI '{uri}': it names a cluster and a topic, as in kafka://my-cluster/my-topic"
        )
    if len(topic) > _TOPIC_LENGTH or topic in (".", "..") or _TOPIC.fullmatch(topic) is None:
        raise InvalidRequestError(
            f"invalid source URI '{_shortened(uri)}': the name of a topic has at most {_TOPIC_LENGTH} characters, "
            "all of them ASCII letters, digits, '.', '_' or '-', and is neither '.' nor '..'"
        )
    return Source(cluster, topic)


def _shortened(uri: str) -> str:
    return uri if len(uri) <= 2 * _TOPIC_LENGTH else f"{uri[: 2 * _TOPIC_LENGTH]}…"


def sink_of(uri: Any, registry: Registry) -> Registered:
    """The handler of `service://Service/handler`. Raises `InvalidRequestError`."""
    check_text("sink", uri)
    if _scheme(uri) != "service":
        raise InvalidRequestError(
            f"invalid sink URI '{uri}': must have a scheme segment, with supported schemes: [service]."
        )
    service, name = _named(uri)
    found = None if name.startswith("$") else registry.get(service, name)
    if found is None:
        known = sorted(f"service://{one.service}/{one.name}" for one in registry if one.name[0] != "$")
        raise InvalidRequestError(
            f"invalid sink URI '{uri}': cannot find service/handler specified in the sink URI. There is: "
            f"{', '.join(known) or 'none'}"
        )
    if found.settings.public is False:
        raise InvalidRequestError(f"invalid sink URI '{uri}': the handler is not public: no record may invoke it")
    return found


def sink_uri(service: str, handler: str) -> str:
    """A handler as a sink."""
    return f"service://{service}/{handler}"


def check_cluster_name(name: Any) -> None:
    """Check the name of a cluster, which follows the rules for host names. Raises `InvalidRequestError`."""
    if not isinstance(name, str) or len(name) > 253 or _CLUSTER.fullmatch(name) is None:
        raise InvalidRequestError(
            f"a cluster's name is made of letters, digits, '-' and '.', as a host's is, and is not {name!r}"
        )


def check_options(options: Any, what: str = "options") -> dict[str, str]:
    """Check that these are options: texts by name. Raises `InvalidRequestError`."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidRequestError(f"{what} takes a mapping of names to texts, not {type(options).__name__}")
    for name, value in options.items():
        check_text(f"name of one of the {what}", name)
        check_text(f"value of {name}", value)
    return dict(options)


def is_keyed(flavor: str) -> bool:
    """Whether handlers of this flavor run on a key."""
    return flavor != Flavor.SERVICE


def _scheme(uri: str) -> str:
    try:
        return urlsplit(uri).scheme
    except ValueError:
        return ""


def _named(uri: str) -> tuple[str, str]:
    """What stands behind the scheme, as it was written: nothing of it is a query, a fragment or left out."""
    host, _, rest = uri.partition("://")[2].partition("/")
    return host, rest
