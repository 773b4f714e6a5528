"""Which keys the stored values of an engine are encoded with, and encoding them anew: for an engine with a codec."""

from typing import TYPE_CHECKING

from durable.engine.access import Access
from durable.errors import UsageError

if TYPE_CHECKING:  # most engines have no codec
    from durable.codec import Sealing
    from durable.store.encoded import EncodedStore


class Encoding(Access):
    """What can be asked of an engine that has a codec, where it runs."""

    async def codec_keys(self) -> dict[str, int]:
        """How many rows of the database need each key, by its id; "" are rows with something in clear.

        All of the database is read, beside what goes on. A key that is not named can be taken away from the codec.
        Raises `UsageError` where there is no codec, or no file.
        """
        return await self._encoded().keys_in_use()

    async def encode_again(self) -> int:
        """Encode what is stored with older keys, or in clear, with the newest key; returns how many rows that were.

        A few hundred rows at a time, while everything goes on. It can be done again, also where it was cut short.
        What needs a key that is missing, or is damaged, stays as it is. Raises `UsageError` where there is no codec,
        or no file.
        """
        return await self._encoded().encode_again()

    @property
    def sealing(self) -> "Sealing | None":
        """What decodes stored values, for whoever reads the file by itself; None where there is no codec."""
        return getattr(self._store, "sealing", None)

    def _encoded(self) -> "EncodedStore":
        from durable.store.encoded import EncodedStore

        store = self._running().store
        if not isinstance(store, EncodedStore):
            raise UsageError("this engine has no codec: Engine(..., codec=durable.encryption.AesGcm({id: key}))")
        return store
