"""Makes seeds from whatever they depend on. Python's own `hash` of a text differs from process to process."""

import hashlib


def stable_hash(*parts: object) -> int:
    """A 63-bit hash of the parts, by their `repr`: the same in every process and on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
