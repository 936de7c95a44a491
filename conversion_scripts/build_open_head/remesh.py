"""Our own topology: in comes a dense half sheet, out come graded sites on it and the triangles between them.

Sites start at random with the wanted density, are relaxed to a centroidal Voronoi diagram of the surface (Lloyd, with
geodesic distances along the mesh graph) and are joined by the dual triangulation. Feature lines (midline, lid rim, lip
contact) are sampled first and stay fixed, so that lids and lips get matched rows of vertices.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra


def mesh_graph(points: np.ndarray, tri: np.ndarray, size: np.ndarray) -> sparse.csr_matrix:
    """Graph [n,n] of edge lengths in units of the wanted edge length; the diagonal across each edge joins too."""
    half = np.concatenate([tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]])
    opposite = np.concatenate([tri[:, 2], tri[:, 0], tri[:, 1]])
    order = np.lexsort(np.sort(half, axis=1).T)
    key, far = np.sort(half, axis=1)[order], opposite[order]
    twin = np.flatnonzero((key[1:] == key[:-1]).all(1))
    pairs = np.concatenate([np.unique(key, axis=0), np.stack([far[twin], far[twin + 1]], 1)])
    length = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    length = np.maximum(length, 1e-7) / (0.5 * (size[pairs[:, 0]] + size[pairs[:, 1]]))
    n = len(points)
    graph = sparse.coo_matrix((length, (pairs[:, 0], pairs[:, 1])), (n, n)).tocsr()
    return graph.maximum(graph.T)


def geodesic(points: np.ndarray, tri: np.ndarray, start: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Distance in metres along the surface from a set of vertices."""
    graph = mesh_graph(points, tri, np.ones(len(points)))
    return dijkstra(graph, False, np.asarray(start), min_only=True, limit=limit)


def vertex_area(points: np.ndarray, tri: np.ndarray) -> np.ndarray:
    """A third of the area of the triangles around each vertex."""
    area = 0.5 * np.linalg.norm(
        np.cross(points[tri[:, 1]] - points[tri[:, 0]], points[tri[:, 2]] - points[tri[:, 0]]), axis=1
    )
    return sum(np.bincount(tri[:, k], area, len(points)) for k in range(3)) / 3


def sites(
    points: np.ndarray,
    tri: np.ndarray,
    size: np.ndarray,
    fixed: np.ndarray,
    curves: np.ndarray,
    rounds: int = 40,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Sites and the triangles between them.

    Returns vertex indices [k], the fixed ones first and in order, and triangles [F,3] into them. `curves` are all
    vertices on feature lines: free sites keep clear of them, so that the lines stay edges of the mesh.
    """
    rng = np.random.default_rng(seed)
    graph = mesh_graph(points, tri, size)
    mass = vertex_area(points, tri) / size**2
    allowed = dijkstra(graph, False, curves, min_only=True) > 0.62
    free = np.flatnonzero(allowed)
    count = int(mass[free].sum() / 0.866)
    chosen = rng.choice(free, count, replace=False, p=mass[free] / mass[free].sum())
    seeds = np.concatenate([fixed, chosen])
    for _ in range(rounds):
        _, _, owner = dijkstra(graph, False, seeds, min_only=True, return_predecessors=True)
        label = _label(seeds, owner, len(points))
        seeds = np.concatenate([fixed, _centres(points, label, mass, seeds, allowed)[len(fixed) :]])
    for _ in range(30):
        distance, _, owner = dijkstra(graph, False, seeds, min_only=True, return_predecessors=True)
        label = _label(seeds, owner, len(points))
        triangles = dual(tri, label)
        extra = _second_edges(triangles, label, np.where(allowed, distance, 0))
        if not len(extra):
            return seeds, triangles
        seeds = np.concatenate([seeds, extra])
    raise ValueError("the sites do not settle to a manifold; use a smaller density")


def _second_edges(triangles: np.ndarray, label: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """New sites where two cells meet twice: the vertex of one of them that is farthest from its site."""
    half = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges, count = np.unique(half, axis=0, return_counts=True)
    extra = []
    for a, b in edges[count > 1]:
        cell = np.flatnonzero((label == a) | (label == b))
        extra.append(cell[distance[cell].argmax()])
    return np.unique(np.array(extra, dtype=np.int64))


def _label(seeds: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    index = np.full(n, -1)
    index[seeds] = np.arange(len(seeds))
    return index[owner]


def _centres(
    points: np.ndarray, label: np.ndarray, mass: np.ndarray, seeds: np.ndarray, allowed: np.ndarray
) -> np.ndarray:
    k = len(seeds)
    total = np.maximum(np.bincount(label, mass, k), 1e-30)
    mean = np.stack([np.bincount(label, mass * points[:, d], k) for d in range(3)], 1) / total[:, None]
    distance = ((points - mean[label]) ** 2).sum(1) + np.where(allowed, 0.0, 1.0)
    distance[seeds] = np.minimum(distance[seeds], 0.5)  # a cell without an allowed vertex keeps its site
    order = np.lexsort((distance, label))
    return order[np.unique(label[order], return_index=True)[1]]


def dual(tri: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Triangles between the sites whose cells meet in one triangle of the sheet."""
    t = label[tri]
    keep = (t[:, 0] != t[:, 1]) & (t[:, 1] != t[:, 2]) & (t[:, 2] != t[:, 0])
    t = t[keep]
    t = np.take_along_axis(t, (np.arange(3)[None] + t.argmin(1)[:, None]) % 3, 1)
    return np.unique(t, axis=0)


def flip_edges(points: np.ndarray, tri: np.ndarray, locked: set[tuple[int, int]], rounds: int = 8) -> np.ndarray:
    """Flips edges to Delaunay (opposite angles sum below 180 degrees) where the surface there is nearly flat."""
    tri = tri.copy()
    for _ in range(rounds):
        if not _flip_once(points, tri, locked):
            break
    return tri


def _flip_once(points: np.ndarray, tri: np.ndarray, locked: set[tuple[int, int]]) -> int:
    where: dict[tuple[int, int], tuple[int, int]] = {}
    for f, (a, b, c) in enumerate(tri.tolist()):
        where[a, b], where[b, c], where[c, a] = (f, c), (f, a), (f, b)
    touched: set[int] = set()
    flips = 0
    for (a, b), (f, c) in list(where.items()):
        if a > b or (b, a) not in where or (a, b) in locked or (b, a) in locked:
            continue
        g, d = where[b, a]
        if f in touched or g in touched or (c, d) in where or (d, c) in where:
            continue
        if not _better(points, a, b, c, d):
            continue
        tri[f], tri[g] = (a, d, c), (d, b, c)
        touched.update((f, g))
        flips += 1
    return flips


def _better(p: np.ndarray, a: int, b: int, c: int, d: int) -> bool:
    def angle(o: int, u: int, v: int) -> float:
        x, y = p[u] - p[o], p[v] - p[o]
        return float(np.arccos(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-18), -1, 1)))

    def normal(i: int, j: int, k: int) -> np.ndarray:
        n = np.cross(p[j] - p[i], p[k] - p[i])
        return n / (np.linalg.norm(n) + 1e-18)

    if angle(c, a, b) + angle(d, a, b) <= np.pi + 0.02:
        return False
    flat = normal(a, b, c) @ normal(b, a, d)
    return normal(a, d, c) @ normal(d, b, c) > min(flat, 0.95) - 0.05


def check_manifold(tri: np.ndarray, count: int) -> None:
    """Raises ValueError unless each directed edge occurs once and each vertex is used by one fan of triangles."""
    half = np.concatenate([tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]])
    if len(np.unique(half, axis=0)) != len(half):
        raise ValueError(f"{len(half) - len(np.unique(half, axis=0))} directed edges are used twice")
    unused = count - len(np.unique(tri))
    if unused:
        raise ValueError(f"{unused} sites are in no triangle")
