"""Gaussian filtering in many dimensions: the permutohedral lattice.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010. Points are spread over the corners of the lattice cell around them (splat), the
corners are blurred along each axis of the lattice, and the points read their corners back (slice).
Each step is a sparse matrix with few entries in a row; only corners that some point touches exist.

A point on a cell's face belongs to either cell, and which one decides what corners exist. The order
of the float32 operations below is therefore that of the published C++ code, so that results agree.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_CODE = 2**62
_PIECE = 64  # entries of a row that one thread of a GPU sums


class SparseRows:
    """A sparse matrix, row after row.

    Args:
        columns: (entries,) int32.
        weights: (entries,) float32.
        starts: (rows + 1,) int32: where each row begins, and the number of entries at the end.

    Example:
        >>> rows = SparseRows.of_equal_length(torch.tensor([[0, 1], [1, 1]]), torch.ones(2, 2))
        >>> (rows @ torch.tensor([[1.0], [10.0]])).flatten().tolist()
        [11.0, 20.0]
    """

    def __init__(self, columns: Tensor, weights: Tensor, starts: Tensor) -> None:
        self.columns, self.weights, self.starts = columns, weights, starts
        if not on_gpu(columns):
            return
        # a GPU sums a row in one thread, so long rows are cut into pieces that are summed first
        counts = (starts.diff() + _PIECE - 1) // _PIECE
        self.rows = F.pad(counts.cumsum(0), (1, 0))
        within = torch.arange(int(self.rows[-1]), device=starts.device)
        within = within - self.rows[:-1].repeat_interleave(counts)
        begins = starts[:-1].repeat_interleave(counts) + _PIECE * within
        self.pieces = torch.cat([begins, starts[-1:]])

    @classmethod
    def of_equal_length(cls, columns: Tensor, weights: Tensor) -> SparseRows:
        """Build from (rows, entries in a row), both arguments alike."""
        rows, width = columns.shape
        starts = torch.arange(rows + 1, dtype=torch.int32, device=columns.device) * width
        return cls(columns.int().reshape(-1), weights.reshape(-1), starts)

    def __matmul__(self, values: Tensor) -> Tensor:
        """Compute weighted sums of the rows of (columns, K) float32: (rows, K)."""
        if on_gpu(values):  # in a fixed order, unlike sums by atomic additions
            terms = values.index_select(0, self.columns) * self.weights[:, None]
            sums = torch.segment_reduce(terms, "sum", offsets=self.pieces, unsafe=True)
            whole = len(self.pieces) == len(self.rows)
            return (
                sums if whole else torch.segment_reduce(sums, "sum", offsets=self.rows, unsafe=True)
            )
        # the fastest such product on a CPU
        options = {"per_sample_weights": self.weights, "include_last_offset": True}
        return F.embedding_bag(self.columns, values, self.starts, mode="sum", **options)


class Lattice:
    """A Gaussian filter of unit standard deviation between points, symmetrically normalised.

    The result approximates ``D^-1/2 G D^-1/2 x``, where ``G_ij = exp(-|f_i - f_j|^2 / 2)`` and D
    holds the row sums of G. Building a lattice costs about as much as ten products.

    Args:
        features: (d, N) float32: the points, each feature divided by its standard deviation.
        images: the points are those of so many images, one after the other, equally many of each;
            points of different images have nothing to do with each other.

    Attributes:
        n_corners: number of lattice corners that hold a value.

    Raises:
        ValueError: if the features span more cells than 64-bit integers can number.

    Example:
        Two equal points share what they have, the one far away keeps to itself:

        >>> lattice = Lattice(torch.tensor([[0.0, 0.0, 9.0]]))
        >>> (lattice @ torch.tensor([[1.0], [0.0], [1.0]])).flatten().round(decimals=3).tolist()
        [0.5, 0.5, 1.0]
    """

    def __init__(self, features: Tensor, images: int = 1) -> None:
        d, N = features.shape
        cell, rank, offset = _enclosing_cells(_elevate(features))
        weights = _barycentric(offset, rank)  # (d + 1, N)
        codes, strides = _corner_codes(cell, rank, images)
        codes, order = _sort(codes.view(-1))

        is_new = torch.ones_like(codes, dtype=torch.bool)
        is_new[1:] = codes[1:] != codes[:-1]
        starts = is_new.nonzero().view(-1)
        corners = codes[starts]  # (M,) sorted
        self.n_corners = len(corners)

        points = torch.arange(N, dtype=torch.int32, device=features.device).repeat(d + 1)
        ends = torch.cat([starts, starts.new_tensor([len(codes)])]).int()
        self.splat = SparseRows(points[order], weights.view(-1)[order], ends)
        corner_of = torch.empty_like(points)
        corner_of[order] = is_new.cumsum(0, dtype=torch.int32) - 1
        self.slice = SparseRows.of_equal_length(corner_of.view(d + 1, N).T, weights.T)
        self.blurs = [_blur(corners, shift) for shift in _axis_shifts(corners, strides)]
        self.gain = 1 / (1 + 2.0**-d)
        self.norm = (self._filter(weights.new_ones(N, 1)) + 1e-20).rsqrt()

    def __matmul__(self, values: Tensor) -> Tensor:
        """Filter (N, K) float32 values, each column for itself: (N, K)."""
        return self._filter(values * self.norm).mul_(self.norm)

    def _filter(self, values: Tensor) -> Tensor:
        K = values.shape[1]
        if on_gpu(values) and K % 4 == 0:  # whose rows of 16 bytes torch gathers one by one
            values = F.pad(values, (0, 1))
        values = self.splat @ values  # (M, K)
        for blur in self.blurs:
            values = blur @ values
        return (self.slice @ values)[:, :K].mul_(self.gain)  # (N, K)


@lru_cache(maxsize=8)
def _pixel_positions(H: int, W: int, std: float, device: torch.device) -> Tensor:
    """Compute columns and rows (2, H * W) in standard deviations, divided on the CPU.

    A GPU multiplies by the reciprocal instead, and a point on the face of a cell changes sides.
    """
    cells = torch.cartesian_prod(torch.arange(H), torch.arange(W))
    return (cells.fliplr().T / std).contiguous().to(device)


@lru_cache(maxsize=8)
def spatial_lattice(H: int, W: int, std: float, device: torch.device) -> Lattice:
    """Build the lattice of the pixels' places alone, for a deviation in pixels."""
    return Lattice(_pixel_positions(H, W, std, device))


def bilateral_lattice(levels: Tensor, xy_std: float, rgb_std: float) -> Lattice:
    """Build the lattice of images (n, 3, H, W) uint8; that of a single one is remembered."""
    if len(levels) == 1:
        content, size = levels.cpu().numpy().tobytes(), tuple(levels.shape[2:])
        return _lattice_of_one(content, size, xy_std, rgb_std, levels.device)
    return _new_lattice(levels, xy_std, rgb_std)


def _new_lattice(levels: Tensor, xy_std: float, rgb_std: float) -> Lattice:
    n, _, H, W = levels.shape
    positions = _pixel_positions(H, W, xy_std, levels.device).repeat(1, n)
    colours = (torch.arange(256) / rgb_std).to(levels.device)[levels.int()]
    features = torch.cat([positions, colours.transpose(0, 1).flatten(1)])  # (5, n * H * W)
    return Lattice(features, n)


@lru_cache(maxsize=2)  # the image at hand: background rules, prompts and sliders come back to it
def _lattice_of_one(
    content: bytes, size: tuple[int, int], xy_std: float, rgb_std: float, device: torch.device
) -> Lattice:
    levels = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(1, 3, *size)
    return _new_lattice(levels.to(device), xy_std, rgb_std)


def _elevate(features: Tensor) -> Tensor:
    """Turn and scale (d, N) points into the plane of d + 1 coordinates with sum zero."""
    d, N = features.shape
    spread = float(np.float32((d + 1) * (2 / 3) ** 0.5))
    lifted = features.new_empty(d + 1, N)
    tail = features.new_zeros(N)
    for j in range(d, 0, -1):
        scaled = features[j - 1] * float(np.float32(1 / (j * (j + 1)) ** 0.5 * spread))
        torch.sub(tail, scaled * j, out=lifted[j])
        tail += scaled
    lifted[0] = tail
    return lifted


def _enclosing_cells(lifted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the lattice cell around every point.

    Args:
        lifted: (d + 1, N).

    Returns:
        (d + 1, N) each: the cell's remainder-0 corner in units of d + 1; how many coordinates lie
        further from it (0 to d, a permutation for each point; int64); how far each one lies from
        it, in units of d + 1.
    """
    n = len(lifted)
    unit = float(np.float32(1) / np.float32(n))
    cell = (lifted * unit).round()
    excess = cell.sum(0).to(torch.int8)  # the corner is off the plane by this much
    offset = lifted - cell * n
    rank = excess.repeat(n, 1)
    for i in range(n):
        for j in range(i + 1, n):
            is_lower = offset[i] < offset[j]
            rank[i] += is_lower
            rank[j] += ~is_lower
    back = (rank < 0).to(torch.int8) - (rank >= n).to(torch.int8)
    cell += back
    return cell, (rank + back * n).long(), (lifted - cell * n) * unit


def _barycentric(offset: Tensor, rank: Tensor) -> Tensor:
    """Compute weights of the cell's corners, by remainder: (d + 1, N), not negative, sum 1."""
    falling = torch.empty_like(offset).scatter_(0, rank, offset)
    weights = torch.empty_like(offset)
    weights[0] = 1 - falling[0] + falling[-1]
    weights[1:] = (falling[:-1] - falling[1:]).flip(0)
    return weights


def _corner_codes(cell: Tensor, rank: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Number the corners of every cell, so that a step on the lattice adds a constant.

    The corner of remainder r is r everywhere, minus d + 1 at the r coordinates nearest to the
    remainder-0 corner. The last coordinate follows from the others and is left out. The numbers of
    each image come after those of the image before.

    Returns:
        (d + 1, N) int64 codes, whose remainder modulo d + 1 is the corner's; (d + 1,) int64, what
        one unit of d + 1 along each coordinate adds.
    """
    n, N = cell.shape
    low, high = cell[:-1].aminmax(dim=1)
    spans = (high - low + 4).long()  # one to spare on either side, for neighbours
    if images * n * spans.double().prod() >= LARGEST_CODE:
        problem = f"the features span {spans.tolist()} cells, more than 64-bit integers can number"
        raise ValueError(f"{problem}; use larger standard deviations or a smaller image")
    strides = n * torch.cat([spans.new_ones(1), spans[:-1].cumprod(0), spans.new_zeros(1)])
    codes = torch.empty_like(rank)
    image = torch.arange(images, device=cell.device) * (n * spans.prod())
    codes[0] = image.repeat_interleave(N // images)
    for i in range(n - 1):
        codes[0] += (cell[i] - (low[i] - 2)).long() * strides[i]
    falling = torch.empty_like(rank).scatter_(0, rank, strides[:, None].expand(n, N))
    for r in range(1, n):
        torch.sub(codes[r - 1] + 1, falling[n - r], out=codes[r])
    return codes, strides


def on_gpu(values: Tensor) -> bool:
    """Return whether to compute with few large operations, in parallel, and without NumPy."""
    return values.is_cuda


def _sort(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Sort codes, as `torch.sort`; return also where they were."""
    index_bits = len(codes).bit_length()
    if on_gpu(codes) or int(codes.max()) >= LARGEST_CODE >> index_bits:
        return tuple(codes.sort(stable=True))
    # plain integers sort faster than integers with an index: one number holds both
    both = (codes << index_bits).add_(torch.arange(len(codes)))
    both = torch.from_numpy(np.sort(both.numpy()))
    return both >> index_bits, both & ((1 << index_bits) - 1)


def _search(corners: Tensor, wanted: Tensor) -> Tensor:
    """Find the places of codes among the sorted corners."""
    if on_gpu(corners):
        return torch.searchsorted(corners, wanted)
    return torch.from_numpy(np.searchsorted(corners.numpy(), wanted.numpy()))


def _axis_shifts(corners: Tensor, strides: Tensor) -> list[Tensor]:
    """Compute what a step along each of the d + 1 axes adds to every corner's code: each (M,).

    A step is -1 in all coordinates but one, which gains d. From remainder 0 it leads to remainder
    d of the cells before.
    """
    n = len(strides)
    down = torch.where(corners % n == 0, n - 1 - strides.sum(), -1)
    return [down + stride for stride in strides]


def _blur(corners: Tensor, shift: Tensor) -> SparseRows:
    """Filter by (1/2, 1, 1/2) along one axis; corners that do not exist count as zero."""
    wanted = corners + shift
    here = torch.arange(len(corners), device=corners.device)
    after = _search(corners, wanted).clamp_(max=len(corners) - 1)
    exists = corners[after] == wanted
    columns = here.int()[:, None].repeat(1, 3)  # a missing neighbour is the corner, weighing 0
    weights = torch.zeros(columns.shape, device=corners.device)
    weights[:, 1] = 1
    weights[:, 2] = exists * 0.5
    columns[:, 2] = torch.where(exists, after, here)
    before, corner = here[exists], after[exists]
    columns[corner, 0] = before.int()
    weights[corner, 0] = 0.5
    return SparseRows.of_equal_length(columns, weights)
