"""Makes invocations of records. A record that cannot be run becomes one that has already failed."""

from base64 import urlsafe_b64encode
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol
from zlib import crc32

import msgspec

from durable.core.alike import Alike
from durable.core.ids import claimed_id
from durable.core.invocation import Caller, Flavor, Submission
from durable.core.journal import Failure
from durable.core.record_commands import Offered
from durable.core.sources import Subscription
from durable.errors import DurableError, InvalidRequestError, RequestError
from durable.kafka.sources import is_keyed
from durable.runtime.observer import Observer
from durable.runtime.registry import Registered, Registry, check_headers, check_text
from durable.serde import check_data, decoded

#: How long the record of one that failed at once is kept at least: somebody has to see it.
KEPT_MS = 86_400_000
#: How much of a key that is none is kept, to find it by.
_KEY_SHOWN = 1000
#: The headers that say where a record is from have fewer bytes, and nothing that could not be stored.
_OWN_HEADERS = 2048
_json = msgspec.json.Encoder().encode
_URLSAFE = bytes.maketrans(b"+/", b"-_")
#: Ours, whatever a record says.
_RESERVED = ("kafka.", "restate.")


class Record(Protocol):
    """A record, as the client library gives it."""

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def topic(self) -> str: ...  # noqa: D102
    @property
    def timestamp(self) -> int | None: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...  # noqa: D102


def fingerprint(record: Record) -> int:
    """A number that tells a record from another one at the same offset; never 0."""
    begin = crc32(b"%d %d" % (record.timestamp or 0, -1 if record.key is None else len(record.key)))
    return crc32(record.value or b"", crc32(record.key or b"", begin)) or 1


class Records:
    """Makes invocations of the records of one subscription."""

    def __init__(
        self,
        subscription: Subscription,
        registry: Registry,
        new_ids: Callable[[int], list[str]],
        observer: Observer | None = None,
    ) -> None:
        self._subscription = subscription
        self._registry = registry
        self._new_ids = new_ids
        self._observer = observer
        self._caller = Caller(0, subscription.id, 0, subscription.source, False)

    @property
    def handler(self) -> Registered | None:
        """The handler, if this engine has it."""
        return self._registry.get(self._subscription.service, self._subscription.handler)

    def offered(self, records: Sequence[Record], handler: Registered | None) -> tuple[Offered, ...] | Alike:
        """Invocations for some records, in their order; the first and the last have their fingerprints."""
        told = self._observer is not None  # of each
        if records and handler is not None and handler.flavor is Flavor.SERVICE and not told:
            with suppress(Exception):  # one of them fails, and which one is found one by one
                return self._alike(records, handler)
        return self.one_by_one(records, handler)

    def _alike(self, records: Sequence[Record], handler: Registered) -> Alike:
        """The same as columns, where nothing is told of each. Raises, whatever it is, where one cannot be run."""
        size_max, has_input, decode = handler.value_size_max, handler.has_input, handler.input.decode
        door = door_of(handler)
        inputs: list[bytes] = []
        for record in records:
            value = record.value
            if value is None:
                inputs.append(input_of(record, handler))
                continue
            if len(value) > size_max:
                check_data(value, door, size_max)
            if has_input:
                decode(value)
            inputs.append(value)
        shared = Submission(
            "", handler.service, handler.name, None, handler.flavor, b"", {}, None, self._caller, None,
            *handler.retentions_ms(by_idempotency_key=False),
        )  # fmt: skip
        return Alike(
            shared,
            [record.offset for record in records],
            self._new_ids(len(records)),
            inputs,
            self._header_texts(records, size_max),
            (fingerprint(records[0]), fingerprint(records[-1])),
        )

    def _header_texts(self, records: Sequence[Record], size_max: int) -> list[str]:
        """The headers of records of one partition, as JSON. Raises `DurableError` for what cannot be stored."""
        one = records[0]
        begin = '{"kafka.offset":"'
        middle = (
            f'","kafka.topic":"{one.topic}","kafka.partition":"{one.partition}",'
            f'"restate.subscription.id":"{self._subscription.id}"'
        )  # a topic has no character that JSON escapes
        texts = []
        for record in records:
            if record.headers or size_max < _OWN_HEADERS:
                texts.append(_json(check_headers(self._headers(record), size_max)).decode())
                continue
            key, timestamp, shown = record.key, record.timestamp, ""
            if key is not None and len(key) <= _KEY_SHOWN:
                shown = f',"kafka.key":"{b2a_base64(key, newline=False).translate(_URLSAFE).decode()}"'
            if timestamp is None or timestamp < 0:
                texts.append(f"{begin}{record.offset}{middle}{shown}}}")
            else:
                texts.append(f'{begin}{record.offset}{middle},"kafka.timestamp":"{timestamp}"{shown}}}')
        return texts

    def singly(self, alike: Alike) -> tuple[Offered, ...]:
        """One object for each of them, and each with another id."""
        return tuple(
            Offered(offset, msgspec.structs.replace(alike.submission(index), id=id), alike.fingerprint(index))
            for index, (offset, id) in enumerate(zip(alike.offsets, self._new_ids(len(alike)), strict=True))
        )

    def one_by_one(self, records: Sequence[Record], handler: Registered | None) -> tuple[Offered, ...]:
        """The same, one object for each."""
        kept_ms = (0, 0) if handler is None else handler.retentions_ms(by_idempotency_key=False)
        last = len(records) - 1
        return tuple(
            self._offered(record, id, handler, kept_ms, fingerprint(record) if index in (0, last) else 0)
            for index, (record, id) in enumerate(zip(records, self._new_ids(last + 1), strict=True))
        )

    def _offered(
        self, record: Record, id: str, handler: Registered | None, kept_ms: tuple[int, int], about: int
    ) -> Offered:
        headers = self._headers(record)
        try:
            if handler is None:
                sink = self._subscription.sink
                raise InvalidRequestError(f"no handler is registered for {sink}: add it, and restart this")
            key = key_of(record, handler.keyed)
            data = input_of(record, handler)
            if record.headers or handler.value_size_max < _OWN_HEADERS:
                headers = check_headers(headers, handler.value_size_max)
        except DurableError as error:
            return self.failed(record, error, about=about, headers=headers)
        service, name, flavor = handler.service, handler.name, handler.flavor
        if flavor is Flavor.WORKFLOW:  # its key determines it
            id = claimed_id(service, key, name, "", span=self._registry.id_span)
        submission = Submission(id, service, name, key, flavor, data, headers, None, self._caller, None, *kept_ms)
        return self._offer(Offered(record.offset, submission, about))

    def failed(
        self, record: Record, error: Exception, *, about: int = 0, headers: dict[str, str] | None = None
    ) -> Offered:
        """An invocation that has failed with this error."""
        try:
            safe = check_headers(headers or {}, self._registry.value_size_max)
        except RequestError:
            safe = self._own_headers(record)
        return self._failed(record.offset, record.key, record.value or b"", safe, error, about)

    def refused(self, offered: Offered, error: Exception) -> Offered:
        """The same of one that the store refused: without the bytes of the record."""
        submission = offered.submission
        key = None if submission.key is None else submission.key.encode()
        own = {name: text for name, text in submission.headers.items() if name.startswith(_RESERVED)}
        return self._failed(offered.offset, key, b"", own, error, offered.fingerprint)

    def _failed(
        self, offset: int, key: bytes | None, input: bytes, headers: dict[str, str], error: Exception, about: int
    ) -> Offered:
        subscription, handler = self._subscription, self.handler
        flavor = Flavor(subscription.flavor) if handler is None else handler.flavor
        shown = shown_key(key) if is_keyed(flavor) else None
        [id] = self._new_ids(1)
        if flavor is Flavor.WORKFLOW:
            span = self._registry.id_span
            id = claimed_id(subscription.service, shown, subscription.handler, "", span=span)
        kept = KEPT_MS
        if handler is not None:
            kept = max(kept, handler.settings.journal_retention_ms or 0)
        code = error.code if isinstance(error, RequestError) else 400
        failure = Failure(f"the record cannot be accepted: {error}", code)
        submission = Submission(
            id,
            subscription.service,
            subscription.handler,
            shown,
            flavor,
            input,
            headers,
            None,
            self._caller,
            None,
            kept,
            kept,
        )
        return self._offer(Offered(offset, submission, about, failure.outcome()))

    def _offer(self, offered: Offered) -> Offered:
        if self._observer is not None:
            self._observer.record_offered(offered.submission, self._subscription)
        return offered

    def _own_headers(self, record: Record) -> dict[str, str]:
        own = {
            "kafka.offset": str(record.offset),
            "kafka.topic": record.topic,
            "kafka.partition": str(record.partition),
            "restate.subscription.id": self._subscription.id,
        }
        if record.timestamp is not None and record.timestamp >= 0:
            own["kafka.timestamp"] = str(record.timestamp)
        if record.key is not None and len(record.key) <= _KEY_SHOWN:
            own["kafka.key"] = urlsafe_b64encode(record.key).decode()
        return own

    def _headers(self, record: Record) -> dict[str, str]:
        """Those of the record, and those that say where it is from, with the bytes of its key.

        Of several of one name the last one counts. What is no text is in base64, under its name with `-bin` behind.
        """
        own = self._own_headers(record)
        if not record.headers:
            return own
        found: dict[str, str] = {}
        for name, value in record.headers:
            if name.startswith(_RESERVED) or not name or "\0" in name:
                continue
            try:
                text = (value or b"").decode()
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                found[f"{name}-bin"] = urlsafe_b64encode(value or b"").decode()
            else:
                found[name] = text
        return found | own


def key_of(record: Record, keyed: bool) -> str | None:
    """The record's key as the key of an object or workflow; "" if it has none. Raises `InvalidRequestError`."""
    if not keyed:
        return None
    if record.key is None:
        return ""
    try:
        key = record.key.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"its key is no UTF-8 text ({error.reason} at byte {error.start})") from None
    check_text("key", key)
    return key


def shown_key(key: bytes | None) -> str:
    """An invalid key as a valid one: escaped where it cannot be read, and cut if it is too long."""
    return (key or b"")[:_KEY_SHOWN].decode(errors="backslashreplace").replace("\0", "\\x00")


def door_of(handler: Registered) -> str:
    """What an error calls a record's value."""
    return f"the value of the record, as the argument of {handler.service}/{handler.name}"


def input_of(record: Record, handler: Registered) -> bytes:
    """The record's value, if the handler can read it; a tombstone has none. Raises `SerializationError`."""
    door = door_of(handler)
    if record.value is None:
        nothing = handler.nothing()
        if nothing is None:
            raise InvalidRequestError(
                f"it has no value (a tombstone), and {handler.service}/{handler.name} needs one: let it take None"
            )
        return nothing
    check_data(record.value, door, handler.value_size_max)
    if handler.has_input:
        decoded(handler.input.decode, record.value, door)
    return record.value
