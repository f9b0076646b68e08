"""Bases of an attention head in which a few channels carry nearly everything.

A head's logits depend on its queries and keys only through their products, and its output on its values and output
columns only through theirs. Any invertible map of the one side, with its inverse on the other, changes nothing; the
maps here order the channels so that the first w are the best w (in the sense that each function names).

Covariances get a ridge before they are inverted, so that directions that the calibration images never show stay
invertible: at full width every map here is exact up to rounding, whatever the images were.
"""

from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 1e-6


class QueryKeyBasis(NamedTuple):
    """Maps of a head's query and key channels: q' = query @ q, k' = key @ k.

    Attributes:
        query: `[heads, w, d]`.
        key: `[heads, w, d]`; at full width `query^T @ key` is the identity.
    """

    query: Tensor
    key: Tensor


class ValueBasis(NamedTuple):
    """Maps of a head's value channels and of the output columns that read them.

    Attributes:
        value: `[heads, d, d]`, v' = value @ v.
        output: `[dim, heads, d]` the output projection's columns for v'.
    """

    value: Tensor
    output: Tensor


def roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root of `[..., d, d]` moments and its inverse, both with the ridge."""
    values, vectors = torch.linalg.eigh((moment + moment.mT) / 2)
    scale = values[..., -1:].clamp(min=torch.finfo(values.dtype).tiny)
    root = (values.clamp(min=0) + RIDGE * scale).sqrt()[..., None, :]
    return vectors * root @ vectors.mT, vectors / root @ vectors.mT


def query_key_basis(queries: Tensor, keys: Tensor) -> QueryKeyBasis:
    """The basis whose first w channels minimise `||Q K^T - Q' K'^T||_F`, for every w at once.

    With Cq = Q^T Q, Ck = K^T K and the singular value decomposition Cq^(1/2) Ck^(1/2) = U S V^T, it is
    q' = S^(1/2) U^T Cq^(-1/2) q and k' = S^(1/2) V^T Ck^(-1/2) k: the truncated decomposition of Q K^T itself (Eckart
    and Young 1936), written without its tokens ("KQ-SVD", AISTATS 2026).

    Args:
        queries: `[heads, d, d]` second moments of the queries.
        keys: `[heads, d, d]` second moments of the keys about their mean.
    """
    query_root, query_inverse = roots(queries)
    key_root, key_inverse = roots(keys)
    u, s, vh = torch.linalg.svd(query_root @ key_root)
    scale = s.sqrt()[..., None]
    return QueryKeyBasis(scale * (u.mT @ query_inverse), scale * (vh @ key_inverse))


def shared_key_basis(
    queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], width: int, rounds: int = 30
) -> tuple[Tensor, Tensor, Tensor]:
    """One map of the keys of two products that are summed, and a map of the queries of each.

    For attention whose content and position keys go through one projection. Minimises
    `sum_i ||Q_i K_i^T - Q_i R_i (K_i M^T)^T||_F^2` by alternating least squares:
    R_i = Ck_i M^T (M Ck_i M^T)^-1 for a given M, and for given R_i the M that solves
    `sum_i (R_i^T Cq_i R_i) M Ck_i = sum_i R_i^T Cq_i Ck_i`, a Sylvester equation of two terms, which the generalised
    eigenvectors of its pairs of matrices make diagonal.

    Args:
        queries: `[heads, d, d]` second moments of the queries of each product.
        keys: the same of the keys, about their mean.
        width: channels of a head that are kept.
        rounds: alternations.

    Returns:
        The queries' maps `R_1^T`, `R_2^T` and the keys' map M, each `[heads, width, d]`.
    """
    dim = queries[0].shape[-1]
    if width >= dim:
        same = torch.eye(dim, dtype=keys[0].dtype, device=keys[0].device).expand_as(keys[0])
        return same, same, same
    query = [_ridged(moment) for moment in queries]
    key = [_ridged(moment) for moment in keys]
    root, inverse = roots(key[0] + key[1])
    shown = sum(root @ moment @ root for moment in query)
    assert isinstance(shown, Tensor)
    map_ = torch.linalg.eigh(shown).eigenvectors[..., -width:].mT @ inverse  # [heads, width, d]
    whitened, vectors = _joint_diagonal(key[0], key[1])
    readers = _readers(map_, key)
    for _ in range(rounds):
        left = [_ridged(r.mT @ q @ r) for r, q in zip(readers, query, strict=True)]
        right = sum(r.mT @ q @ k for r, q, k in zip(readers, query, key, strict=True))
        values, basis = _joint_diagonal(left[0], left[1])
        solved = basis.mT @ right @ vectors / (values[..., :, None] * whitened[..., None, :] + 1)
        map_ = basis @ solved @ vectors.mT
        # Only the rows' span counts; an orthonormal one keeps the next round well conditioned.
        map_ = torch.linalg.qr(map_.mT).Q.mT
        readers = _readers(map_, key)
    return readers[0].mT, readers[1].mT, map_


def _readers(map_: Tensor, keys: list[Tensor]) -> list[Tensor]:
    """The best R_i `[heads, d, width]` for a map of the keys."""
    return [torch.linalg.solve(map_ @ key @ map_.mT, map_ @ key).mT for key in keys]


def _ridged(moment: Tensor) -> Tensor:
    scale = moment.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=torch.finfo(moment.dtype).tiny)
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    return (moment + moment.mT) / 2 + RIDGE * scale[..., None, None] * eye


def _joint_diagonal(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors V of the pair: `V^T second V` is the identity, `V^T first V` diagonal."""
    lower = torch.linalg.cholesky(second)
    half = torch.linalg.solve_triangular(lower, first, upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.mT, upper=False))
    return values, torch.linalg.solve_triangular(lower.mT, vectors, upper=True)


def value_basis(outputs: Tensor, weight: Tensor, metric: Tensor | None = None) -> ValueBasis:
    """The basis whose first w channels are the best rank-w approximation of each head's part of the output.

    With C the covariance of a head's weighted values O, R the root of the output's metric and
    C^(1/2) W^T R = U S V^T, it is v' = U^T C^(-1/2) v read by the columns W C^(1/2) U: the truncated decomposition of
    O W^T R about its mean.

    Args:
        outputs: `[heads, d, d]` covariances of the heads' weighted values.
        weight: `[dim, heads, d]` the output projection's columns for each head.
        metric: `[dim, dim]` symmetric R: an error e of the output counts as |R e|^2; None: the identity.
    """
    root, inverse = roots(outputs)
    columns = weight.double().transpose(0, 1)  # [heads, dim, d]
    shown = columns if metric is None else metric @ columns
    u, _, _ = torch.linalg.svd(root @ shown.mT, full_matrices=False)
    if u.shape[-1] < u.shape[-2]:
        raise ValueError(f"a head of {u.shape[-2]} channels is wider than the output of {u.shape[-1]}")
    return ValueBasis(u.mT @ inverse, (columns @ root @ u).transpose(0, 1))
