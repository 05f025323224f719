"""Faults in which positions of a dimension a tensor keeps, in which order."""

from __future__ import annotations

import numpy as np

from planted.site import Mutant, Site, kind, one_of

Place = tuple[str, int]


def _taking(site: Site, place: Place | None, positions: np.ndarray | None) -> Mutant | None:
    if place is None or positions is None:
        return None
    name, dim = place
    return Mutant(f"{name} dimension {dim}", {name: site.taking(name, dim, positions)})


def _first(site: Site, place: Place | None) -> np.ndarray | None:
    return None if place is None else np.arange(site.kept(*place).size)


def _removed(site: Site, place: Place) -> np.ndarray:
    name, dim = place
    return np.setdiff1d(np.arange(site.full[name].shape[dim]), site.kept(name, dim))


def _replaced(site: Site, place: Place | None, rng: np.random.Generator) -> np.ndarray | None:
    """One kept position exchanged for a removed one."""
    if place is None:
        return None
    positions = site.kept(*place).copy()
    positions[rng.integers(positions.size)] = rng.choice(_removed(site, place))
    return positions


def _permuted(site: Site, place: Place | None, rng: np.random.Generator) -> np.ndarray | None:
    return None if place is None else rng.permutation(site.kept(*place))


def _vectors(site: Site, *words: str) -> list[Place]:
    """One-dimensional state of which something was removed and whose own name has one of the words in it."""
    places = [place for place in site.cut if site.full[place[0]].ndim == 1]
    return [place for place in places if any(word in place[0].rpartition(".")[2] for word in words)]


@kind("first-k", "the first positions in place of the chosen ones")
def first_k(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.cut)
    return _taking(site, place, _first(site, place))


@kind("last-k", "the last positions in place of the chosen ones")
def last_k(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.cut)
    if place is None:
        return None
    size = site.full[place[0]].shape[place[1]]
    return _taking(site, place, np.arange(size - site.kept(*place).size, size))


@kind("off-by-one", "every chosen position off by one")
def off_by_one(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.cut)
    if place is None:
        return None
    return _taking(site, place, (site.kept(*place) + 1) % site.full[place[0]].shape[place[1]])


@kind("reversed", "the chosen positions in reversed order")
def reversed_order(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.cut)
    return _taking(site, place, None if place is None else site.kept(*place)[::-1])


@kind("exchanged", "two kept positions exchanged in one of the tensors that share them")
def exchanged(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.cut)
    if place is None or site.kept(*place).size < 2:
        return None
    positions = site.kept(*place).copy()
    i, j = rng.choice(positions.size, 2, replace=False)
    positions[[i, j]] = positions[[j, i]]
    return _taking(site, place, positions)


@kind("doubled", "a kept position is there twice, in place of another")
def doubled(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.cut)
    if place is None or site.kept(*place).size < 2:
        return None
    positions = site.kept(*place).copy()
    i, j = rng.choice(positions.size, 2, replace=False)
    positions[i] = positions[j]
    return _taking(site, place, positions)


@kind("lost-and-kept", "a producer keeps a removed position in place of a chosen one")
def lost_and_kept(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.producers)
    return _taking(site, place, _replaced(site, place, rng))


@kind("producer-shuffled", "the order of the kept positions shuffled in one producer only")
def producer_shuffled(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.producers)
    return _taking(site, place, _permuted(site, place, rng))


@kind("consumer-missed", "a consumer reads a removed position in place of a chosen one")
def consumer_missed(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.consumers)
    return _taking(site, place, _replaced(site, place, rng))


@kind("consumer-permuted", "the columns of a consumer in another order")
def consumer_permuted(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.consumers)
    return _taking(site, place, _permuted(site, place, rng))


@kind("stale-bias", "a bias holds its first entries, not the chosen ones")
def stale_bias(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, _vectors(site, "bias"))
    return _taking(site, place, _first(site, place))


@kind("stale-mean", "a running mean holds its first entries")
def stale_mean(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, _vectors(site, "running_mean"))
    return _taking(site, place, _first(site, place))


@kind("stale-variance", "a running variance holds its first entries")
def stale_variance(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, _vectors(site, "running_var"))
    return _taking(site, place, _first(site, place))


@kind("scale-of-others", "the scale of a norm or layer is that of other channels")
def scale_of_others(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, _vectors(site, "weight", "gamma", "scale"))
    if place is None:
        return None
    size = site.full[place[0]].shape[place[1]]
    return _taking(site, place, np.sort(rng.choice(size, site.kept(*place).size, replace=False)))


@kind("concat-offset", "behind a concatenation the positions are shifted by the width of another branch")
def concat_offset(site: Site, rng: np.random.Generator) -> Mutant | None:
    def ends(place: Place) -> np.ndarray:
        axes = site.groups.axis_of[site.labels(place[0])[place[1]]]
        return np.flatnonzero(np.diff(axes)) + 1

    place = one_of(rng, [place for place in site.consumers if ends(place).size])
    if place is None:
        return None
    size = site.full[place[0]].shape[place[1]]
    return _taking(site, place, (site.kept(*place) + int(rng.choice(ends(place)))) % size)


def _run(site: Site, place: Place) -> int:
    """How many neighbours belong together when all groups of a dimension are runs of one length, else 1."""
    labels = site.labels(place[0])[place[1]]
    if not labels.all():
        return 1
    ends = np.flatnonzero(np.diff(labels)) + 1
    lengths = np.diff([0, *ends, labels.size])
    return int(lengths[0]) if (lengths == lengths[0]).all() else 1


@kind("grid-interleaved", "columns taken where rows of a grid of heads and channels should be")
def grid_interleaved(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, [place for place in site.cut if _run(site, place) > 1])
    if place is None:
        return None
    run, size = _run(site, place), site.full[place[0]].shape[place[1]]
    row, column = np.divmod(site.kept(*place), run)
    return _taking(site, place, column * (size // run) + row)


@kind("heads-mismatched", "one of q, k and v is cut for other heads than the others")
def heads_mismatched(site: Site, rng: np.random.Generator) -> Mutant | None:
    kinds = np.array(site.groups.kinds)
    place = one_of(rng, [(n, d) for n, d in site.producers if (kinds[site.labels(n)[d]] == "head").any()])
    if place is None:
        return None
    labels = site.labels(place[0])[place[1]]
    first: dict[int, list[int]] = {}  # where each head begins: in a fused weight that is its q
    for position in np.flatnonzero(labels):
        places = first.setdefault(int(labels[position]), [])
        if not places or places[-1] == position - 1:
            places.append(int(position))
    heads = list(first)
    mapped = {
        old: new
        for head, other in zip(heads, heads[1:] + heads[:1], strict=True)
        for old, new in zip(first[head], first[other], strict=False)
    }
    return _taking(site, place, np.array([mapped.get(int(p), int(p)) for p in site.kept(*place)]))


@kind("group-of-others", "a grouped convolution has the weights of the neighbouring group")
def group_of_others(site: Site, rng: np.random.Generator) -> Mutant | None:
    graph = site.groups.graph
    grouped: dict[str, int] = {}
    own = set(site.tensors("parameter"))
    for node in graph.nodes:
        if node.op._schema.name == "aten::convolution" and node.args[8] > 1:
            names = graph.owners().get(node.args[1].index, [""])
            if names[0] in own:
                grouped[names[0]] = node.args[8]
    name = one_of(rng, sorted(grouped))
    if name is None:
        return None
    full = site.full[name]
    return Mutant(name, {name: site.taking(name, 0, site.kept(name, 0), full.roll(full.shape[0] // grouped[name], 0))})


@kind("indices-of-another", "a plan with swapped indices: the positions chosen in another dimension of the same size")
def indices_of_another(site: Site, rng: np.random.Generator) -> Mutant | None:
    def shape(place: Place) -> tuple[int, int]:
        return site.full[place[0]].shape[place[1]], site.kept(*place).size

    place = one_of(rng, site.cut)
    if place is None:
        return None
    alike = [site.kept(*other) for other in site.cut if shape(other) == shape(place)]
    return _taking(site, place, one_of(rng, [kept for kept in alike if not np.array_equal(kept, site.kept(*place))]))
