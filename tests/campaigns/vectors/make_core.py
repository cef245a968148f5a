"""Vectors of field, encoding, Merkle trees, code, transcript and streams, computed here from their definitions.

Nothing of protocol/ is used: integers, hashlib and polynomials as one writes them down.
"""

import hashlib
import random
from math import isqrt, prod

from tests.campaigns.vectors.suite import TOP, P, Suite, texts, word

W, G = 7, 7  # K = F[X]/(X² − 7); 7 generates F*
EDGES = [0, 1, 2, P - 1, P - 2, 2**32, 2**32 - 1, 2**63, P - 2**32, 2**64 - 2**33]


def kmul(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return (a[0] * b[0] + W * a[1] * b[1]) % P, (a[0] * b[1] + a[1] * b[0]) % P


def field(rng: random.Random) -> Suite:
    s = Suite("field")

    def element() -> int:
        return rng.choice(EDGES) if rng.random() < 0.5 else rng.randrange(P)

    s.ok(
        "field.mul",
        texts([a * b % P for a in EDGES for b in EDGES]),
        a=texts([a for a in EDGES for _ in EDGES]),
        b=texts(EDGES * len(EDGES)),
    )
    for _ in range(3):
        a, b = [(element(), element()) for _ in range(4)], [(element(), element()) for _ in range(4)]
        s.ok("field.kmul", texts([kmul(x, y) for x, y in zip(a, b, strict=True)]), a=texts(a), b=texts(b))
    for c0, c1 in [(1, 0), (0, 1), (P - 1, 5), (element(), 3), (2**32, 2**63)]:
        norm = pow(c0 * c0 - W * c1 * c1, -1, P)
        s.ok("field.inverse", [texts((c0 * norm % P, -c1 * norm % P))], a=texts((c0, c1)))
    s.bad("field.inverse", "refused", a=["0", "0"])
    signed = [0, 1, -1, 2**62, -(2**62), 2**63 - 1, -(2**63)]
    s.ok("field.embed", texts([v % P for v in signed]), values=texts(signed))
    for m in range(4):
        point = [(element(), element()) for _ in range(m)]
        table = [(1, 0)]
        for c0, c1 in point:  # first variable most significant
            table = [kmul(t, f) for t in table for f in (((1 - c0) % P, -c1 % P), (c0, c1))]
        s.ok("field.eq_table", texts(table), point=texts(point))
    for k in (0, 1, 5, 32):
        s.ok("field.root_of_unity", str(pow(G, (P - 1) >> k, P)), k=k)
    for k in (33, -1, 64):
        s.bad("field.root_of_unity", "refused", k=k)
    s.ok("field.from_bytes", texts(EDGES), data=word(*EDGES))
    s.ok("field.from_bytes", [], data="")
    for data in [(P,), (P + 1,), (TOP,), (0, P), (1, 2, TOP, 3), (P - 1, 2**64 - 2**32 + 2)]:
        s.bad("field.from_bytes", "non-canonical", data=word(*data))
    for length in (1, 7, 9, 12, 15):
        s.bad("field.from_bytes", "length", data="00" * length)
    s.ok("field.kfrom_bytes", [["5", "6"], ["7", str(P - 1)]], data=word(5, 6, 7, P - 1))
    s.bad("field.kfrom_bytes", "length", data=word(1, 2, 3))
    s.bad("field.kfrom_bytes", "non-canonical", data=word(1, P))
    s.ok("field.ext_from_bytes", [[str(P - 1), "0"]], data=word(P - 1, 0))
    for reason, data in [
        ("length", ""),
        ("length", word(1)),
        ("length", word(1, 2, 3)),
        ("length", word(1, 2) + "00"),
        ("non-canonical", word(P, 0)),
        ("non-canonical", word(0, TOP)),
    ]:
        s.bad("field.ext_from_bytes", reason, data=data)
    return s


def encoding() -> Suite:
    s = Suite("encoding")
    for text, value in [
        ("{}", {}),
        ("[]", []),
        ('""', ""),
        ("-7", -7),
        ('{"a":[1,true,"é"],"b":{}}', {"a": [1, True, "é"], "b": {}}),
        ('{"A":1,"a":2,"é":3}', {"A": 1, "a": 2, "é": 3}),
        (str(2**70), 2**70),
        ('"\\n\\u0001\\""', '\n\x01"'),
    ]:
        s.ok("encoding.parse", value, data=text.encode().hex())
    for text in [
        '{"a": 1}',
        '{"a":1 }',
        "[1, 2]",
        " {}",
        "{}\n",
        '{"b":1,"a":2}',
        '{"a":1,"a":1}',
        '"\\u0041"',
        '"\\/"',
        "-0",
        '"\\u00e9"',
        '{"a":{"c":1,"b":2}}',
        '"\\u000a"',
    ]:
        s.bad("encoding.parse", "non-canonical", data=text.encode().hex())
    for text in [
        "",
        "{",
        "[1,]",
        "{'a':1}",
        "01",
        "+1",
        "1.5",
        "1e3",
        "null",
        '{"a":null}',
        "[null]",
        "NaN",
        "Infinity",
        "TRUE",
        "1 2",
        "// x\n1",
        '{"a":1.0}',
        '"\\ud800"',
        '"\n"',
        "{1:2}",
        "[" * 100000,
        "\ufeff{}",
    ]:
        if len(text) < 1000:
            s.bad("encoding.parse", "malformed", data=text.encode().hex())
    for data in [b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', b'"\xc0\x80"', "{}".encode("utf-16")]:
        s.bad("encoding.parse", "malformed", data=data.hex())
    for tag, parts in [("a", []), ("a", [b""]), ("a", [b"x", b"yz"]), ("a", [b"xy", b"z"]), ("statement/1", [bytes(40)])]:
        inner = b"verilora/" + tag.encode() + b"\0" + b"".join(len(p).to_bytes(8, "big") + p for p in parts)
        s.ok("encoding.digest", hashlib.sha256(inner).hexdigest(), tag=tag, parts=[p.hex() for p in parts])
    return s


LEAF, NODE = (f"verilora/merkle/{kind}/v1".encode().ljust(32, b"\0") for kind in ("leaf", "node"))


def tree(leaves: list[bytes]) -> list[list[bytes]]:
    levels = [leaves]
    while len(levels[-1]) > 1:
        row = levels[-1]
        levels.append([hashlib.sha256(NODE + row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)])
    return levels


def siblings(levels: list[list[bytes]], positions: list[int]) -> list[bytes]:
    out, current = [], list(positions)
    for row in levels[:-1]:
        out += [row[i ^ 1] for i in current if i ^ 1 not in current]
        current = sorted({i // 2 for i in current})
    return out


def merkle(rng: random.Random) -> Suite:
    s = Suite("merkle")
    for length in (0, 8, 24):
        salt, column = rng.randbytes(32), rng.randbytes(length)
        s.ok("merkle.leaf", hashlib.sha256(LEAF + salt + column).hexdigest(), salt=salt.hex(), column=column.hex())
    for length in (0, 31, 33, 64):
        s.bad("merkle.leaf", "length", salt=rng.randbytes(length).hex(), column="00" * 8)
    for n in (1, 2, 4, 16):
        leaves = [rng.randbytes(32) for _ in range(n)]
        s.ok("merkle.root", tree(leaves)[-1][0].hex(), leaves=[x.hex() for x in leaves])
    for n in (0, 3, 6, 12):
        s.bad("merkle.root", "size", leaves=[rng.randbytes(32).hex() for _ in range(n)])
    for n, positions in [(1, [0]), (2, [1]), (8, [0, 3, 7]), (16, [4, 5, 6, 7]), (4, [0, 1, 2, 3])]:
        levels = tree([rng.randbytes(32) for _ in range(n)])
        nodes = [x.hex() for x in siblings(levels, positions)]
        honest = {
            "n": n,
            "positions": positions,
            "leaves": [levels[0][i].hex() for i in positions],
            "nodes": nodes,
            "root": levels[-1][0].hex(),
        }
        s.ok("merkle.opening", "accepted", **honest)
        flip = bytes([levels[0][positions[0]][0] ^ 1]) + levels[0][positions[0]][1:]
        s.bad("merkle.opening", "merkle-root", **honest | {"leaves": [flip.hex(), *honest["leaves"][1:]]})
        s.bad("merkle.opening", "length", **honest | {"leaves": honest["leaves"][1:]})
        s.bad("merkle.opening", "length", **honest | {"nodes": [*nodes, "00" * 32]})
        s.bad("merkle.opening", "positions", **honest | {"positions": [*positions[:-1], n]})
        s.bad("merkle.opening", "positions", **honest | {"positions": [-1, *positions[1:]]})
        if nodes:
            s.bad("merkle.opening", "length", **honest | {"nodes": nodes[1:]})
            s.bad("merkle.opening", "length", **honest | {"nodes": [nodes[0] + "00", *nodes[1:]]})
            s.bad("merkle.opening", "merkle-root", **honest | {"nodes": ["00" * 32, *nodes[1:]]})
        if len(nodes) > 1:
            s.bad("merkle.opening", "merkle-root", **honest | {"nodes": nodes[::-1]})
        if len(positions) > 1:
            s.bad("merkle.opening", "positions", **honest | {"positions": positions[::-1]})
            s.bad("merkle.opening", "positions", **honest | {"positions": [positions[0], *positions[:-1]]})
    s.bad("merkle.opening", "positions", n=4, positions=[], leaves=[], nodes=[], root="00" * 32)
    s.bad("merkle.opening", "size", n=6, positions=[0], leaves=["00" * 32], nodes=["00" * 32] * 3, root="00" * 32)
    return s


def power(k: int, order: int) -> int:
    """The k-th power of the fixed root of unity of this order."""
    return pow(pow(G, (P - 1) // order, P), k, P)


def code(rng: random.Random) -> Suite:
    s = Suite("code")
    for ell, n, blinding in [(1, 2, 0), (2, 8, 3), (4, 16, 0), (8, 32, 12)]:
        message, rho = [rng.randrange(P) for _ in range(ell)], [rng.randrange(P) for _ in range(blinding)]
        inverse = pow(ell, -1, P)
        coefficients = [sum(m * power(-i * j, ell) for i, m in enumerate(message)) * inverse % P for j in range(ell)] + [0] * blinding
        for i, r in enumerate(rho):  # (X^ell − 1)·ρ
            coefficients[i] = (coefficients[i] - r) % P
            coefficients[i + ell] = (coefficients[i + ell] + r) % P
        points = [G * power(i, n) % P for i in range(n)]
        codeword = [sum(c * pow(x, j, P) for j, c in enumerate(coefficients)) % P for x in points]
        shape = {"ell": ell, "n": n, "blinding": blinding}
        s.ok("code.encode", texts(codeword), **shape, message=texts(message), rho=texts(rho))
        s.ok("code.message_of", texts(message), **shape, coefficients=texts(coefficients))
        some = sorted(rng.sample(range(n), 2))
        s.ok("code.evaluate", texts([codeword[i] for i in some]), **shape, coefficients=texts(coefficients), positions=some)
        s.ok("code.new", ell + blinding, **shape)
    for ell, n, blinding in [(3, 8, 0), (0, 8, 0), (4, 12, 0), (4, 0, 0), (8, 4, 0), (4, 8, 5), (4, 8, -1), (4, 2**33, 0), (-4, 8, 0)]:
        s.bad("code.new", "refused", ell=ell, n=n, blinding=blinding)
    return s


class Chain:
    """The transcript's hash chain."""

    def __init__(self) -> None:
        self.state = hashlib.sha256(b"verilora/transcript/1").digest()

    def step(self, kind: bytes, tag: str, data: bytes) -> None:
        name = tag.encode()
        self.state = hashlib.sha256(self.state + kind + len(name).to_bytes(8, "big") + name + len(data).to_bytes(8, "big") + data).digest()

    def draw(self, tag: str, count: int, below: int) -> list[int]:
        self.step(b"\x02", tag, count.to_bytes(8, "big") + below.to_bytes(9, "big"))
        out, i = list[int](), 0
        while len(out) < count:
            block = hashlib.sha256(self.state + b"\x03" + (i // 4).to_bytes(8, "big")).digest()
            value = int.from_bytes(block[8 * (i % 4) : 8 * (i % 4) + 8], "big")
            out += [value % below] if value < 2**64 // below * below else []
            i += 1
        return out


def transcript(rng: random.Random) -> Suite:
    s = Suite("transcript")
    scripts: list[list[list[object]]] = [
        [],
        [["absorb", "", ""]],
        [["absorb", "statement", "00ff"], ["draw", "α", 4, str(P)]],
        [["draw", "x", 9, str(2**64)], ["draw", "x", 9, "1"], ["absorb", "x", "01" * 100], ["draw", "x", 5, str(2**63 + 1)]],
        [["absorb", "a", "6263"], ["draw", "d", 0, "5"], ["absorb", "ab", "63"], ["draw", "d", 6, "97"]],
    ]
    for script in scripts:
        chain, draws = Chain(), []
        for kind, tag, *rest in script:
            if kind == "absorb":
                chain.step(b"\x01", str(tag), bytes.fromhex(str(rest[0])))
            else:
                draws.append(texts(chain.draw(str(tag), int(str(rest[0])), int(str(rest[1])))))
        s.ok("transcript.events", {"draws": draws, "state": chain.state.hex()}, events=script)
    for n, count in [(1, 1), (8, 8), (256, 20), (1 << 20, 5)]:
        chain, seed = Chain(), rng.randbytes(5)
        chain.step(b"\x01", "seed", seed)
        cards = {i: i for i in range(min(n, 4096))}
        for i in range(count):
            j = i + chain.draw("positions", 1, n - i)[0]
            cards[i], cards[j] = cards.get(j, j), cards.get(i, i)
        s.ok("channel.positions", sorted(cards[i] for i in range(count)), seed=seed.hex(), n=n, count=count)
    messages = [["bytes", "root", 32], ["extension", "sigma", 2], ["field", "column", 3], ["secrets", "claim", 1]]
    data = rng.randbytes(32) + bytes.fromhex(word(*(rng.randrange(P) for _ in range(9))))
    chain, at = Chain(), 0
    for (_, tag, _), size in zip(messages, (32, 32, 24, 16), strict=True):
        chain.step(b"\x01", str(tag), data[at : at + size])
        at += size
    s.ok("channel.read", chain.state.hex(), messages=messages, proof=data.hex())
    s.ok("channel.read", Chain().state.hex(), messages=[], proof="")
    for length in (0, 1, 31, 32, 63, 87, 103):
        s.bad("channel.read", "truncated", messages=messages, proof=data[:length].hex())
    for extra in (b"\0", bytes(8), data):
        s.bad("channel.read", "trailing", messages=messages, proof=(data + extra).hex())
    s.bad("channel.read", "trailing", messages=[], proof="00")
    for i, value in enumerate((P, TOP, P + 1, P, TOP, P, P, TOP, P + 7)):
        changed = data[: 32 + 8 * i] + value.to_bytes(8, "big") + data[40 + 8 * i :]
        s.bad("channel.read", "non-canonical", messages=messages, proof=changed.hex())
    return s


def stream(label: str, count: int) -> list[int]:
    data = label.encode()
    prefix = b"verilora/stream" + len(data).to_bytes(8, "big") + data
    blocks = b"".join(hashlib.sha256(prefix + i.to_bytes(8, "big")).digest() for i in range(-(-count // 4)))
    return [int.from_bytes(blocks[8 * i : 8 * i + 8], "big") for i in range(count)]


def shuffled(label: str, n: int) -> list[int]:
    order = list(range(n))
    for i, value in zip(range(n - 1, 0, -1), stream(label, n - 1), strict=True):  # none of these labels meets a rejected word
        order[i], order[value % (i + 1)] = order[value % (i + 1)], order[i]
    return order


def streams() -> Suite:
    s = Suite("streams")
    for label, n in [("order/7/0", 1), ("order/7/0", 2), ("order/7/1", 9), ("é", 64)]:
        s.ok("streams.permutation", shuffled(label, n), label=label, n=n)
    for n in (1, 23, 1 << 32):
        s.ok("streams.below", [w % n for w in stream("x", 6)], label="x", n=n, count=6)
    for seed, layer, module, shape in [(7, 0, "q_proj", [2, 4]), (2**62, 3, "down_proj", [1, 10]), (0, 1, "o_proj", [2, 1, 2, 3])]:
        fan = prod(shape[1:])
        size, bound = fan * shape[0], isqrt(2**48 // fan)  # the largest b with b/2^24 ≤ 1/√d_in
        flat = [w % (2 * bound + 1) - bound for w in stream(f"lora_A/{seed}/{layer}/{module}", size)]
        for d in reversed(shape[1:]):
            flat = [flat[i : i + d] for i in range(0, len(flat), d)]  # type: ignore[misc]
        s.ok("streams.lora_a", flat, seed=seed, layer=layer, module=module, shape=shape)
    beacon, digest = "00ff" * 8, "ab" * 32
    for size, tasks in [(1, 1), (3, 10), (50, 10)]:
        s.ok(
            "streams.sample",
            sorted(shuffled(f"sample/{beacon}/{digest}", tasks)[:size]),
            beacon=beacon,
            size=size,
            manifest=digest,
            tasks=tasks,
        )
    for bad, size in [
        ("", 1),
        ("00" * 15, 1),
        ("0" * 33, 1),
        ("0F" * 16, 1),
        ("zz" * 16, 1),
        ("00" * 513, 1),
        (beacon, 0),
        (beacon, -1),
        (beacon + "\n", 1),
    ]:
        s.bad("streams.sample", "refused", beacon=bad, size=size, manifest=digest, tasks=4)
    return s


def suites() -> list[Suite]:
    rng = random.Random(1)
    return [field(rng), encoding(), merkle(rng), code(rng), transcript(rng), streams()]
