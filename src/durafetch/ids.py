"""The ids of Durable Objects: how a name makes one, and whose it is; computed offline."""

from __future__ import annotations

import hashlib
import hmac


def id_from_name(unique_key: str, name: str) -> str:
    """The id that `idFromName(name)` gives in a local namespace.

    `unique_key` is the name of the namespace's folder, `<worker>-<Class>`. Half of an id is an HMAC of the name, half
    one of that (https://github.com/cloudflare/workerd/blob/main/src/workerd/server/actor-id-impl.c++).
    """
    key = hashlib.sha256(unique_key.encode()).digest()
    base = hmac.new(key, name.encode("utf-8", "surrogatepass"), "sha256").digest()[:16]
    return (base + hmac.new(key, base, "sha256").digest()[:16]).hex()


def belongs(unique_key: str, id_: str) -> bool:
    """Whether an id (64 hexadecimal digits) is one of a local namespace's."""
    key = hashlib.sha256(unique_key.encode()).digest()
    base = bytes.fromhex(id_[:32])
    return hmac.compare_digest(hmac.new(key, base, "sha256").digest()[:16].hex(), id_[32:])
