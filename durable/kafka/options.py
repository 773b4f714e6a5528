"""Options under librdkafka's names, and what the client library used here calls them.

An unknown option is refused by name, because one without effect would look as if it had one. The file never contains
a secret; it names where the secret is, as `${env:KAFKA_PASSWORD}` or `${file:/run/secrets/kafka}`.
"""

import os
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from durable import log
from durable.errors import InvalidRequestError

NOT_INSTALLED = "aiokafka is not installed: pip install 'durable-engine[kafka]'"
#: What takes the place of a secret wherever options are shown.
HIDDEN = "***"
SECRETS = frozenset({"sasl.password", "ssl.key.password"})
_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")
#: What may be named from outside, so that nobody has a broker of his own sent what is none of its business.
_ENV_PREFIX, _SECRET_FOLDERS = "KAFKA_", ("/run/secrets/", "/var/run/secrets/")


class Unresolved(Exception):
    """An option or a subscription names something that does not exist."""

    def __init__(self, cause: str, reason: str = "secret-missing") -> None:
        super().__init__(cause)
        self.reason = reason


def _number(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not least <= int(text) < 2**31:
            raise ValueError(f"an integer from {least} to {2**31 - 1}")
        return int(text)

    return read


def _choice(**choices: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text.lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return choices[text.lower()]

    return read


def _text(text: str) -> str:
    if not text:
        raise ValueError("a text that is not empty")
    return text


def _servers(text: str) -> list[str]:
    servers = [server.strip() for server in text.split(",") if server.strip()]
    if not servers:
        raise ValueError("host:port, or several, with commas between them")
    return servers


_YES = _choice(true=True, false=False)
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI")


def _mechanism(text: str) -> str:
    if text.upper() not in _MECHANISMS:
        raise ValueError(f"one of {', '.join(_MECHANISMS)}")
    return text.upper()


def _protocol(text: str) -> str:
    known = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
    if text.upper() not in known:
        raise ValueError(f"one of {', '.join(known)}")
    return text.upper()


class Option(NamedTuple):
    """How to read the text of an option, and what the client calls it; "" if it is used here."""

    read: Callable[[str], Any]
    client: str = ""


#: All that is accepted.
OPTIONS: Mapping[str, Option] = {
    "bootstrap.servers": Option(_servers, "bootstrap_servers"),
    "metadata.broker.list": Option(_servers, "bootstrap_servers"),
    "client.id": Option(_text, "client_id"),
    "client.rack": Option(_text, "client_rack"),
    "group.id": Option(_text, "group_id"),
    "group.instance.id": Option(_text, "group_instance_id"),
    "auto.offset.reset": Option(
        _choice(
            earliest="earliest",
            smallest="earliest",
            beginning="earliest",
            latest="latest",
            largest="latest",
            end="latest",
            error="none",
            none="none",
        )
    ),
    "auto.commit.interval.ms": Option(_number(1)),
    "enable.auto.commit": Option(_YES),
    "enable.auto.offset.store": Option(_YES),
    "max.poll.records": Option(_number(1)),
    "session.timeout.ms": Option(_number(1), "session_timeout_ms"),
    "heartbeat.interval.ms": Option(_number(1), "heartbeat_interval_ms"),
    "max.poll.interval.ms": Option(_number(1), "max_poll_interval_ms"),
    "fetch.wait.max.ms": Option(_number(0), "fetch_max_wait_ms"),
    "fetch.min.bytes": Option(_number(1), "fetch_min_bytes"),
    "fetch.max.bytes": Option(_number(1), "fetch_max_bytes"),
    "max.partition.fetch.bytes": Option(_number(1), "max_partition_fetch_bytes"),
    "fetch.message.max.bytes": Option(_number(1), "max_partition_fetch_bytes"),
    "socket.timeout.ms": Option(_number(10), "request_timeout_ms"),
    "retry.backoff.ms": Option(_number(1), "retry_backoff_ms"),
    "topic.metadata.refresh.interval.ms": Option(_number(1), "metadata_max_age_ms"),
    "metadata.max.age.ms": Option(_number(1), "metadata_max_age_ms"),
    "connections.max.idle.ms": Option(_number(0), "connections_max_idle_ms"),
    "check.crcs": Option(_YES, "check_crcs"),
    "isolation.level": Option(
        _choice(read_committed="read_committed", read_uncommitted="read_uncommitted"), "isolation_level"
    ),
    "security.protocol": Option(_protocol, "security_protocol"),
    "sasl.mechanism": Option(_mechanism, "sasl_mechanism"),
    "sasl.mechanisms": Option(_mechanism, "sasl_mechanism"),
    "sasl.username": Option(_text, "sasl_plain_username"),
    "sasl.password": Option(_text, "sasl_plain_password"),
    "sasl.kerberos.service.name": Option(_text, "sasl_kerberos_service_name"),
    "sasl.oauthbearer.config": Option(str),
    "ssl.ca.location": Option(_text),
    "ssl.certificate.location": Option(_text),
    "ssl.key.location": Option(_text),
    "ssl.key.password": Option(_text),
    "ssl.endpoint.identification.algorithm": Option(_choice(https=True, none=False)),
    "enable.ssl.certificate.verification": Option(_YES),
}
#: Set by code only: what gives the token for OAUTHBEARER, called with the text of `sasl.oauthbearer.config`.
TOKEN_CALL = "oauth_cb"
FORCED = ("enable.auto.commit", "enable.auto.offset.store")
#: Options of one group rather than of a cluster.
DEFAULTS = {"isolation.level": "read_committed", "client.id": "restate", "auto.offset.reset": "latest"}


def check(options: Mapping[str, Any], *, where: str, kept: bool) -> None:
    """Check options. `kept`: they are stored in the file. Raises `InvalidRequestError`."""
    for name, value in options.items():
        if name == TOKEN_CALL and not kept and callable(value):
            continue
        option = OPTIONS.get(name)
        if option is None:
            raise InvalidRequestError(
                f"{where}: {name!r} is not accepted; accepted are: {', '.join(sorted(OPTIONS))}"
            )
        if not isinstance(value, str):
            raise InvalidRequestError(f"{where}: {name} takes a text, not {type(value).__name__}")
        if name in SECRETS and kept and _REFERENCE.fullmatch(value) is None:
            raise InvalidRequestError(
                f"{where}: {name} would be kept in clear: name an environment variable instead, as "
                f"'${{env:{_ENV_PREFIX}PASSWORD}}', or a file, as '${{file:{_SECRET_FOLDERS[0]}kafka}}'"
            )
        if _REFERENCE.search(value):
            _check_references(name, value, where, kept=kept)
        else:
            _read(name, value, where)


def _check_references(name: str, value: str, where: str, *, kept: bool) -> None:
    for kind, named in _REFERENCE.findall(value):
        allowed = named.startswith(_ENV_PREFIX) if kind == "env" else _is_secret_file(named)
        if kept and not allowed:
            raise InvalidRequestError(
                f"{where}: {name} names {kind} {named!r}; what is set at run time may name environment variables "
                f"that begin with {_ENV_PREFIX}, and files in {_SECRET_FOLDERS[0]}"
            )


def _is_secret_file(path: str) -> bool:
    return path.startswith(_SECRET_FOLDERS) and ".." not in path.split("/")


def _read(name: str, value: str, where: str) -> Any:
    try:
        return OPTIONS[name].read(value)
    except ValueError as error:
        shown = "" if name in SECRETS else f", not {value!r}"
        raise InvalidRequestError(f"{where}: {name} is {error}{shown}") from None


def shown(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as anybody may see them: secrets are hidden, but not the names of where they are."""
    return {name: value if _may_be_seen(name, value) else HIDDEN for name, value in options.items()}


def _may_be_seen(name: str, value: Any) -> bool:
    return isinstance(value, str) and (name not in SECRETS or _REFERENCE.fullmatch(value) is not None)


def effective(id: str, cluster: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """The options in force for a subscription: its own, then those of its cluster, then defaults."""
    return {"group.id": id, **DEFAULTS, **cluster, **options}


class Settings(NamedTuple):
    """Options as a reader uses them."""

    #: Arguments of the client.
    client: dict[str, Any]
    #: earliest, latest or none.
    reset: str
    commit_interval_s: float
    poll_records: int
    #: How often it must ask for records at least, to stay in its group.
    poll_interval_s: float
    #: Gives a token, called with the text beside it.
    token: tuple[Callable[[str], Any], str] | None


def settings(options: Mapping[str, Any], where: str) -> Settings:
    """Read options, with secrets filled in. Raises `Unresolved`, `InvalidRequestError`, `OSError`."""
    resolved = {name: _resolve(value) if isinstance(value, str) else value for name, value in options.items()}
    for name in FORCED:
        if resolved.pop(name, "").lower() == "true":
            log.kafka.warning(
                "%s: %s has no effect: offsets are committed once their records are stored", where, name
            )
    call: Any = resolved.pop(TOKEN_CALL, None)
    read: dict[str, Any] = {name: _read(name, value, where) for name, value in resolved.items()}
    client = {OPTIONS[name].client: value for name, value in read.items() if OPTIONS[name].client}
    if "SSL" in client.get("security_protocol", ""):
        client["ssl_context"] = _ssl_context(read)
    return Settings(
        client,
        read.get("auto.offset.reset", "latest"),
        read.get("auto.commit.interval.ms", 5000) / 1000,
        read.get("max.poll.records", 1000),
        read.get("max.poll.interval.ms", 300_000) / 1000,
        None if call is None else (call, read.get("sasl.oauthbearer.config", "")),
    )


def _resolve(value: str) -> str:
    return _REFERENCE.sub(_named, value)


def _named(match: re.Match[str]) -> str:
    kind, named = match.groups()
    if kind == "env":
        found = os.environ.get(named)
        if found is None:
            raise Unresolved(f"the environment variable {named} is not set")
        return found
    try:
        with open(named, encoding="utf-8") as file:
            return file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Unresolved(f"the file {named} cannot be read: {error}") from None


def _ssl_context(read: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=read.get("ssl.ca.location"))
    if not read.get("enable.ssl.certificate.verification", True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif not read.get("ssl.endpoint.identification.algorithm", True):
        context.check_hostname = False
    if "ssl.certificate.location" in read:
        context.load_cert_chain(
            read["ssl.certificate.location"], read.get("ssl.key.location"), read.get("ssl.key.password")
        )
    return context
