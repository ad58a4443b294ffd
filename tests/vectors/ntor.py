#!/usr/bin/env python3
"""Vectors for the circuit handshake (src/crypto/ntor.rs), from an implementation of its own.

    python3 ntor.py > ntor.json

Needs Python 3.11 and the package `cryptography` (for X25519 only). X25519 runs for real, at both ends. ML-KEM does not run: its keys,
ciphertexts and shared secrets stand in as arbitrary bytes, because the handshake only hashes them. Same output every time.
"""

import hashlib
import hmac
import json

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

COUNT = 4
PROTOCOL = b"ntor x25519 mlkem768 sha256 1"


def draw(name, size):
    return hashlib.shake_256(f"onionskin ntor vectors/{name}".encode()).digest(size)


def label(text):
    return f"onionskin v1 {text}".encode()


def hashed(text, parts):
    """SHA-256 over the label and the parts, each behind its length."""
    h = hashlib.sha256()
    for part in (label(text), *parts):
        h.update(len(part).to_bytes(8, "big") + part)
    return h.digest()


def derive(text, secret, context, size):
    """HKDF-SHA-256 (RFC 5869): the hashed context is the salt, the label the info."""
    prk = hmac.digest(hashed(text, context), secret, "sha256")
    out, block, i = b"", b"", 0
    while len(out) < size:
        i += 1
        block = hmac.digest(prk, block + label(text) + bytes([i]), "sha256")
        out += block
    return out[:size]


def public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret, other):
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(other))


def vector(i):
    v = {name: draw(f"{i}/{name}", 32) for name in ("net", "relay", "b", "x", "y", "kem_shared")}
    v |= {"kem_public": draw(f"{i}/kem_public", 1184), "kem_ciphertext": draw(f"{i}/kem_ciphertext", 1088)}
    v |= {"B": public(v["b"]), "X": public(v["x"]), "Y": public(v["y"])}
    v["xy"], v["xb"] = agree(v["x"], v["Y"]), agree(v["x"], v["B"])
    assert (v["xy"], v["xb"]) == (agree(v["y"], v["X"]), agree(v["b"], v["X"]))
    parts = [v[name] for name in ("net", "relay", "B", "X", "kem_public", "Y", "kem_ciphertext")]
    transcript = hashed("circuit handshake seed", [PROTOCOL, *parts])
    secrets = v["xy"] + v["xb"] + v["kem_shared"]
    seed = derive("circuit handshake seed", secrets, [transcript], 32)
    verify = derive("circuit handshake verify", secrets, [transcript], 32)
    v["auth"] = derive("circuit handshake auth", verify, [transcript, b"server"], 32)
    v["keys"] = derive("circuit handshake keys", seed, [transcript], 160)
    return {name: value.hex() for name, value in v.items()}


print(json.dumps({
    "name": "ntor",
    "source": "ntor.py beside this file, an implementation of its own; made for this project, there are no public ones",
    "vectors": [vector(i) for i in range(COUNT)],
}, indent=1))
