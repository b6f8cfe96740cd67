"""A graph of what objects hold, as a hash that depends neither on where they lie nor on how sets are ordered.

A node is a sequence of parts: words, the numbers of other nodes, and bags of words and numbers that have no
order. Nodes are numbered anew from the root, in the order in which parts lead to them. Only bags leave that
order open: their nodes are then sorted by colours, a node's colour being a hash of what can be read by
walking from it a number of steps, which grows until it tells the nodes of every bag apart (Weisfeiler and
Lehman, 1968). Where no number does, one of those alike is given a colour of its own, and so on: n objects
that hold one another cost n rounds.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

Word = bytes | int
"""The hash of what is said, or the number of a node."""

Part = Word | frozenset[Word]
"""A word, or a bag of them."""

_SIZE = sha256().digest_size


def joined(words: Iterable[bytes | memoryview]) -> bytes:
    """Return the hash of words, of which no two lists are the same bytes."""
    digest = sha256()
    for word in words:
        digest.update(b"%d:" % len(word))
        digest.update(word)
    return digest.digest()


def canonical(nodes: Sequence[Sequence[Part]]) -> str:
    """Return the hash of a graph, as it is seen from node 0.

    Equal graphs have one hash, unless nodes of a bag that no walk tells apart differ all the same, such as
    those of a ring of six and of two rings of three. Graphs that differ have different ones.
    """
    bags = [part for node in nodes for part in node if isinstance(part, frozenset)]
    colours = _colours(nodes, [[at for at in bag if isinstance(at, int)] for bag in bags])
    order, number = [0], {0: 0}
    digest = sha256()
    for at in order:  # which grows meanwhile
        digest.update(b"(")
        for part in nodes[at]:
            words: list[Word] = [part] if not isinstance(part, frozenset) else list(part)
            if isinstance(part, frozenset):
                words.sort(key=lambda word: _rank(word, number, colours))
                digest.update(b"{%d;" % len(part))
            for word in words:
                if isinstance(word, int):
                    if word not in number:
                        number[word] = len(order)
                        order.append(word)
                    digest.update(b"#%d;" % number[word])
                else:
                    digest.update(b"=" + word)
    return digest.hexdigest()[:32]


def _rank(word: Word, number: Mapping[int, int], colours: Sequence[bytes]) -> tuple[bool, int, bytes]:
    """Return by what a bag is sorted: words, then nodes that were met, then others by colour."""
    if isinstance(word, bytes):
        return False, 0, word
    return True, number.get(word, len(colours)), colours[word]


def _colours(nodes: Sequence[Sequence[Part]], bags: Sequence[Sequence[int]]) -> list[bytes]:
    """Return a colour for each node, of which no bag has two alike."""
    colours, kinds = [bytes(_SIZE)] * len(nodes), 1
    tied = _tied(colours, bags)
    while tied:
        said = [b"#" + colour for colour in colours]
        colours = [
            sha256(
                said[at]
                + b"".join(
                    b"{" + sha256(b"".join(sorted(_said(w, said) for w in part))).digest()
                    if isinstance(part, frozenset)
                    else _said(part, said)
                    for part in node
                )
            ).digest()
            for at, node in enumerate(nodes)
        ]
        last, kinds = kinds, len(set(colours))
        tied = _tied(colours, bags)
        if tied and kinds == last:
            one = min(tied, key=colours.__getitem__)
            colours[one] = joined([b"one", colours[one]])
            kinds += 1
            tied = _tied(colours, bags)
    return colours


def _said(word: Word, said: Sequence[bytes]) -> bytes:
    return b"=" + word if isinstance(word, bytes) else said[word]


def _tied(colours: Sequence[bytes], bags: Sequence[Sequence[int]]) -> list[int]:
    """Return the nodes that have the colour of another node of their bag."""
    out: list[int] = []
    for bag in bags:
        met = Counter(colours[at] for at in bag)
        out += [at for at in bag if met[colours[at]] > 1]
    return out
