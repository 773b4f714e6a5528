"""An idempotency key that comes with something else than the first time: the answer is that one's, and it is said."""

from hashlib import sha256

from durable.core.effects import Answer, Reply
from durable.core.invocation import Flavor, Submission
from durable.core.lifecycle.submit import OTHERWISE
from durable.core.sealed import Sealed
from durable.errors import ConflictError
from durable.runtime import lines
from durable.runtime.registry import Registered
from durable.serde.roundtrip import difference

#: Answers about an invocation that was there already.
_KNOWN = (Answer.PREVIOUSLY_ACCEPTED, Answer.FOUND)


class Reuse:
    """Looks at the answer to a request that has an idempotency key, before whoever asked does.

    The first input is stored as long as the key is, so it can be compared: as bytes, or else as what the handler
    would read, because a set is written in any order, and an encrypted value differs each time.
    """

    def __init__(self, handler: Registered, submission: Submission) -> None:
        self._handler = handler
        self._submission = submission
        #: Whether it was another input than that of the invocation that has the key.
        self.differs = False

    @property
    def refuses(self) -> bool:
        """See `commands.Again`."""
        return self._handler.settings.on_key_reuse == "refuse"

    def said(self, id: str, found: bytes) -> str:
        """See `commands.Again`."""
        submission = self._submission
        if self._same(submission.input, found):
            return ""
        first, second = (sha256(data).hexdigest()[:12] for data in (found, submission.input))
        return (
            f"the idempotency key {submission.idempotency_key!r} of {submission.target} belongs to {id}, which "
            f"was accepted with another input (its SHA-256 begins with {first}, this one's with {second})"
        )

    def look(self, reply: Reply) -> None:
        """Raises `ConflictError` where the handler refuses that."""
        submission, found = self._submission, reply.found
        if submission.idempotency_key is None or submission.flavor is Flavor.WORKFLOW or found is None:
            return
        if reply.result not in _KNOWN:
            return
        if isinstance(found.input, Sealed) and self.refuses:
            raise found.input.why.error()
        said = self.said(reply.id, found.input)
        if said:
            self.differs = True
            if self.refuses:
                raise ConflictError(f"{said}: {OTHERWISE}")
            lines.key_reused(submission, said)

    def _same(self, given: bytes, found: bytes) -> bool:
        if given == found:
            return True
        if isinstance(found, Sealed):
            return True  # nobody can tell
        try:
            decode = self._handler.input.decode
            return difference(decode(given), decode(found)) is None
        except Exception:  # it was written by other code
            return False
