"""Faults in the values of one tensor of the subnet."""

from __future__ import annotations

import math

import numpy as np
import torch

from planted.site import Mutant, Site, kind, one_of


def _entry(site: Site, rng: np.random.Generator, name: str | None, change) -> Mutant | None:
    """One entry of a tensor replaced by `change(entry)`."""
    if name is None:
        return None
    wrong = site.right(name).clone()
    at = int(rng.integers(wrong.numel()))
    wrong.view(-1)[at] = change(wrong.view(-1)[at])
    return Mutant(f"{name}[{at}]", {name: wrong})


def _whole(site: Site, name: str | None, change) -> Mutant | None:
    if name is None:
        return None
    return Mutant(name, {name: change(site.right(name))})


def _biases(site: Site) -> list[str]:
    return [name for name in site.floating("parameter") if "bias" in name.rpartition(".")[2]]


def _next_up(entry: torch.Tensor) -> torch.Tensor:
    return torch.nextafter(entry, torch.full_like(entry, math.inf))


@kind("weight-ulp", "one entry of a parameter moved by one unit in the last place", small=True)
def weight_ulp(site: Site, rng: np.random.Generator) -> Mutant | None:
    return _entry(site, rng, one_of(rng, site.floating("parameter")), _next_up)


@kind("buffer-ulp", "one entry of a buffer moved by one unit in the last place", small=True)
def buffer_ulp(site: Site, rng: np.random.Generator) -> Mutant | None:
    return _entry(site, rng, one_of(rng, site.floating("buffer")), _next_up)


@kind("nan", "one entry of a parameter is not a number")
def not_a_number(site: Site, rng: np.random.Generator) -> Mutant | None:
    return _entry(site, rng, one_of(rng, site.floating("parameter")), lambda entry: math.nan)


@kind("infinity", "one entry of a parameter is infinite")
def infinity(site: Site, rng: np.random.Generator) -> Mutant | None:
    return _entry(site, rng, one_of(rng, site.floating("parameter")), lambda entry: math.inf)


@kind("sign", "one entry of a parameter with the other sign", small=True)
def sign(site: Site, rng: np.random.Generator) -> Mutant | None:
    return _entry(site, rng, one_of(rng, site.floating("parameter")), lambda entry: -entry)


@kind("bias-entry-lost", "one entry of a bias is zero", small=True)
def bias_entry_lost(site: Site, rng: np.random.Generator) -> Mutant | None:
    return _entry(site, rng, one_of(rng, _biases(site)), torch.zeros_like)


@kind("bias-lost", "a whole bias is zero", small=True)
def bias_lost(site: Site, rng: np.random.Generator) -> Mutant | None:
    return _whole(site, one_of(rng, _biases(site)), torch.zeros_like)


@kind("rescaled", "a weight divided by the share of what was kept, as dropout would", small=True)
def rescaled(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, site.cut)
    if place is None or not site.full[place[0]].is_floating_point():
        return None
    name, dim = place
    share = site.kept(name, dim).size / site.full[name].shape[dim]
    return _whole(site, name, lambda tensor: tensor / share)


@kind("float16", "a weight rounded to float16", small=True)
def float16(site: Site, rng: np.random.Generator) -> Mutant | None:
    return _whole(site, one_of(rng, site.floating("parameter")), lambda t: t.to(torch.float16).to(t.dtype))


@kind("bfloat16", "a weight rounded to bfloat16", small=True)
def bfloat16(site: Site, rng: np.random.Generator) -> Mutant | None:
    return _whole(site, one_of(rng, site.floating("parameter")), lambda t: t.to(torch.bfloat16).to(t.dtype))


@kind("kept-slice-zeroed", "one of the slices that stay is zero as well")
def kept_slice_zeroed(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, [(n, d) for n, d in site.cut if site.full[n].is_floating_point()])
    if place is None:
        return None
    name, dim = place
    wrong = site.right(name).clone()
    at = int(rng.integers(wrong.shape[dim]))
    wrong.select(dim, at).zero_()
    return Mutant(f"{name} dimension {dim} position {at}", {name: wrong})


@kind("transposed", "a square weight transposed")
def transposed(site: Site, rng: np.random.Generator) -> Mutant | None:
    square = [
        n for n in site.floating() if site.right(n).ndim >= 2 and site.right(n).shape[0] == site.right(n).shape[1]
    ]
    return _whole(site, one_of(rng, square), lambda tensor: tensor.transpose(0, 1).contiguous())


@kind("position-buffer", "a table of positions (an index, a mask, frequencies) shifted by one")
def position_buffer(site: Site, rng: np.random.Generator) -> Mutant | None:
    statistics = ("running_mean", "running_var")
    tables = [n for n in site.tensors("buffer") if not n.endswith(statistics) and site.right(n).numel() > 1]
    return _whole(site, one_of(rng, tables), lambda tensor: tensor.roll(1, -1))


@kind("broadcast", "one entry in place of a vector, right only where it is broadcast")
def broadcast(site: Site, rng: np.random.Generator) -> Mutant | None:
    vectors = [(n, d) for n, d in site.cut if site.right(n).squeeze().ndim == 1 and site.right(n).numel() > 1]
    place = one_of(rng, vectors)
    return None if place is None else _whole(site, place[0], lambda tensor: tensor.narrow(place[1], 0, 1).clone())


@kind("untied", "one of the copies of a tied weight holds something else")
def untied(site: Site, rng: np.random.Generator) -> Mutant | None:
    tied = [
        names
        for names in site.groups.graph.owners().values()
        if len(names) > 1 and names[0] in site.floating("parameter")
    ]
    names = one_of(rng, tied)
    if names is None:
        return None
    name = str(names[rng.integers(1, len(names))])
    return Mutant(name, {name: site.right(name).roll(1, 0)}, apart=True)
