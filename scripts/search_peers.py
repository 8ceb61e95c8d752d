"""The peers of the bench of searches: hnswlib, usearch and hannoy, driven over standard input and output.

    .deps/search-peers/bin/python scripts/search_peers.py FOLDER DIMENSIONS

The folder has two files of little-endian f32, `rows` and `queries`. One JSON object a line, each answered by one:
{"build": true} builds all indexes and says how long that took; {"search": NAME, "width": N} searches all queries, one
after another on one thread, and gives the median time and the ten nearest of each.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import hannoy
import hnswlib
import numpy as np
from usearch.index import Index

# What their documentation calls usual, and a construction that is thorough.
CONNECTIONS = 16
CONSTRUCTION = 200
NEAREST = 10


class Hnswlib:
    def __init__(self, rows):
        self.index = hnswlib.Index(space="ip", dim=rows.shape[1])
        self.index.init_index(max_elements=len(rows), M=CONNECTIONS, ef_construction=CONSTRUCTION)
        self.index.add_items(rows)
        self.index.set_num_threads(1)

    def width(self, width):
        self.index.set_ef(width)

    def search(self, query):
        return self.index.knn_query(query, k=NEAREST)[0][0]


class Usearch:
    def __init__(self, rows):
        self.index = Index(
            ndim=rows.shape[1], metric="ip", dtype="f32", connectivity=CONNECTIONS, expansion_add=CONSTRUCTION
        )
        self.index.add(np.arange(len(rows)), rows)

    def width(self, width):
        self.index.expansion_search = width

    def search(self, query):
        return self.index.search(query, NEAREST, threads=1).keys


class Hannoy:
    """HNSW in LMDB: it reads its vectors and its graph from the file, as arroy does."""

    def __init__(self, rows, folder):
        # Vectors, their links, and as much again while they are built.
        size = 4 * rows.nbytes + (1 << 28)
        folder = folder / "hannoy"
        folder.mkdir()
        database = hannoy.Database(str(folder), hannoy.Metric.COSINE, None, size)
        with database.writer(rows.shape[1], 0, CONNECTIONS, CONSTRUCTION) as writer:
            writer.add_items(list(range(len(rows))), rows)
        self.reader = database.reader()

    def width(self, width):
        self.width_of_search = width

    def search(self, query):
        return [item for item, _ in self.reader.by_vec(query, NEAREST, self.width_of_search)]


def main():
    folder, dims = Path(sys.argv[1]), int(sys.argv[2])
    rows = np.fromfile(folder / "rows", dtype="<f4").reshape(-1, dims)
    queries = np.fromfile(folder / "queries", dtype="<f4").reshape(-1, dims)
    peers = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "build" in request:
            answer = []
            makers = {"hnswlib": Hnswlib, "usearch": Usearch, "hannoy": lambda rows: Hannoy(rows, folder)}
            for name, make in makers.items():
                started = time.perf_counter()
                peers[name] = make(rows)
                answer.append({"name": name, "seconds": time.perf_counter() - started})
        else:
            peer = peers[request["search"]]
            peer.width(request["width"])
            times, found = [], []
            for query in queries.tolist() if request["search"] == "hannoy" else queries:
                started = time.perf_counter()
                nearest = peer.search(query)
                times.append(time.perf_counter() - started)
                found.append([int(item) for item in nearest])
            answer = {"median_s": statistics.median(times), "found": found}
        print(json.dumps(answer), flush=True)


main()
