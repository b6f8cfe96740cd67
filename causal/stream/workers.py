"""Who adds the pieces up: this process, others on this machine (loky), or a Ray cluster. In order, always."""

import os
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from causal.stream.files import Piece
from causal.stream.tally import Tally, Task, tally
from simlab.errors import BadInput, nearest

BACKENDS = ("loky", "ray")

_RETRIES = 10
"""How often a piece is started again when the machine that had it is gone."""


def in_order(
    task: Task, pieces: Sequence[Piece], workers: int, backend: str, address: str
) -> Generator[Tally | None, None, None]:
    """Yield the sums of each piece, in the order of the pieces.

    Args:
        task: what to do.
        pieces: of the log.
        workers: how many pieces at a time; -1 for as many as there are cores.
        backend: "loky" (processes of this machine, through joblib) or "ray".
        address: of the Ray cluster; "local" starts one here and ends it again. A Ray that is running in this
            process is used as it is.

    Raises:
        BadInput: for an unknown backend, no worker, or a Ray that is not installed.
    """
    if backend not in BACKENDS:
        raise BadInput(f"there is no backend named {backend}{nearest(backend, BACKENDS)}")
    if workers < 1 and workers != -1:
        raise BadInput(f"workers is {workers}, but it takes at least 1 (-1 is one for each core)")
    workers = (os.cpu_count() or 1) if workers == -1 else workers
    if backend == "ray":
        return _ray(task, pieces, workers, address)
    if min(workers, len(pieces)) <= 1:
        return (tally(task, piece) for piece in pieces)
    return _loky(task, pieces, min(workers, len(pieces)))


def _loky(task: Task, pieces: Sequence[Piece], workers: int) -> Generator[Tally | None, None, None]:
    from joblib import Parallel, delayed

    run = Parallel(n_jobs=workers, backend="loky", return_as="generator", pre_dispatch="2*n_jobs")
    results = run(delayed(tally)(task, piece) for piece in pieces)
    try:
        for result in results:  # noqa: UP028 (`yield from` would close them outside of what follows)
            yield result
    finally:
        with warnings.catch_warnings():  # who stops early knows that there is work left
            warnings.filterwarnings("ignore", r".*tasks ", UserWarning)
            results.close()


def _ray(
    task: Task, pieces: Sequence[Piece], workers: int, address: str
) -> Generator[Tally | None, None, None]:
    """Run plain Ray tasks: what a lost machine had is started again elsewhere.

    joblib's own Ray backend is a pool of actors, and one that is lost takes the whole run with it.
    """
    try:
        import ray
    except ImportError:
        raise BadInput("backend ray needs Ray, which is not installed: pip install 'simlab[ray]'") from None
    with _cluster(ray, workers, address):
        work = ray.remote(num_cpus=1, max_retries=_RETRIES)(tally)
        shared = ray.put(task)
        waiting: deque[Any] = deque()
        rest = iter(pieces)
        # Who stops early leaves at most two pieces a worker behind: to cancel them while one is being
        # completed has ended this process (Ray 2.60).
        while True:
            while len(waiting) < 2 * workers and (piece := next(rest, None)) is not None:
                waiting.append(work.remote(shared, piece))
            if not waiting:
                return
            try:
                result = ray.get(waiting[0])
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # our own sentence, without Ray's frame around it
            waiting.popleft()
            yield result


@contextmanager
def _cluster(ray: Any, workers: int, address: str) -> Iterator[None]:
    """Join the cluster, unless this process is in one; leave it again."""
    if ray.is_initialized():
        yield
        return
    here = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    try:
        yield
    finally:
        ray.shutdown()
