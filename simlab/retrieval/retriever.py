"""A retriever: items' vectors, a way to search them, and a place on disk."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.files import write_whole
from simlab.rankers.contract import Ranker
from simlab.retrieval.exact import exact_search
from simlab.retrieval.index import SMALL, RetrieverSettings, ask, build, faiss
from simlab.training.store import first_line, read_json, read_tensors, write_tensors


class Retriever:
    """Finds the items with the largest ⟨state, v⟩.

    Source: Jégou, Douze and Schmid (2011), "Product quantization for nearest neighbor search", PAMI (lists
    and codes); Malkov and Yashunin (2020), "Efficient and robust approximate nearest neighbor search using
    hierarchical navigable small world graphs", PAMI; both as in faiss (Douze et al. 2024, "The faiss
    library"), with the inner product as metric.

    Args:
        vectors: one for each item; copied, so that training does not move them under the index. Searches
            take place where they are.
        settings: how to search.

    Raises:
        BadInput: for no items, for a vector that is not finite, and if faiss is needed and not installed.
    """

    vectors: Float[Tensor, "item dim"]

    def __init__(self, vectors: Float[Tensor, "item dim"], settings: RetrieverSettings | None = None) -> None:
        self.settings = RetrieverSettings() if settings is None else settings
        self._index: Any = None
        self.update(vectors)

    @classmethod
    @torch.no_grad()
    def of(cls, ranker: Ranker, settings: RetrieverSettings | None = None) -> "Retriever":
        """Return a retriever of a ranker's items; its queries are `ranker.encode(context)`.

        Raises:
            BadInput: if the ranker's score is not an inner product.
        """
        return cls(ranker.item_vectors(), settings)

    @property
    def n_items(self) -> int:
        """How many items there are."""
        return self.vectors.shape[0]

    def update(self, vectors: Float[Tensor, "item dim"]) -> None:
        """Take new vectors, as after training, and build the index anew; until then the old one answers.

        Raises:
            BadInput: as at the start, and for vectors of another width than before.
        """
        old = getattr(self, "vectors", None)
        if old is not None and old.shape[1] != vectors.shape[1]:
            raise BadInput(
                f"the vectors have {vectors.shape[1]} columns, but the retriever has {old.shape[1]}"
            )
        if 0 in vectors.shape:
            raise BadInput(f"vectors are [item, dim] with at least one of each, not {list(vectors.shape)}")
        _finite("vectors, item", vectors)
        taken = vectors.detach().to(torch.float32, copy=True).contiguous()
        self._index = build(taken, self.settings)
        self.vectors = taken

    @torch.no_grad()
    def search(
        self, states: Float[Tensor, "user dim"], count: int
    ) -> tuple[Int[Tensor, "user cand"], Float[Tensor, "user cand"]]:
        """Return the `count` best items of each user, best first, and their scores.

        Which of several items with the same score is among the last is not said.

        Raises:
            BadInput: for a count above the number of items, states of another width or not finite.
        """
        self._check(states, count)
        if self._index is None:
            return self._exactly(states, count)
        found, worth = ask(self._index, self.settings, states, count)
        short = (found < 0).any(1)
        if bool(short.any()):  # the lists that were looked into hold too few: those rows are searched exactly
            items, scores = self._exactly(states.detach().cpu()[short], count)
            found[short], worth[short] = items, scores
        return found.to(states.device), worth.to(states.device)

    def exact(
        self, states: Float[Tensor, "user dim"], count: int
    ) -> tuple[Int[Tensor, "user cand"], Float[Tensor, "user cand"]]:
        """Search as `search` does, but exactly, whatever the kind."""
        self._check(states, count)
        return self._exactly(states, count)

    def recall(self, states: Float[Tensor, "user dim"], count: int) -> Float[Tensor, " user"]:
        """Return the share of each user's true best `count` items that `search` finds."""
        return _share(self.search(states, count)[0], self.exact(states, count)[0])

    def tune(self, states: Float[Tensor, "user dim"], count: int, recall: float = 0.97) -> float:
        """Double what a query looks at until it finds enough, and return the mean recall that it reaches.

        What it takes depends on the vectors, so ask with states like those to come: some of them for this,
        and others to judge it by `recall`. It stops short of the aim where more does not help.

        Args:
            states: queries, a hundred or so.
            count: how many items each is to find.
            recall: the aim, in (0, 1].

        Raises:
            BadInput: for another aim, and as `search` does.
        """
        if not 0 < recall <= 1:
            raise BadInput(f"recall is in (0, 1], not {recall}")
        best = self.exact(states, count)[0]
        name = {"ivf": "probes", "pq": "rerank", "hnsw": "effort"}.get(self.settings.kind, "probes")
        while True:
            reached = float(_share(self.search(states, count)[0], best).mean())
            much = getattr(self.settings, name)
            if reached >= recall or self._index is None or much >= self.n_items:
                return reached
            self.settings = replace(self.settings, **{name: min(2 * much, self.n_items)})

    def save(self, folder: Path) -> None:
        """Write vectors (safetensors), index (faiss's own binary format) and settings (JSON).

        `retriever.json` names the files and their SHA-256; its rename is the moment at which the new
        retriever replaces the old one.
        """
        tensors = {"vectors": self.vectors}
        digest = hashlib.sha256(self.vectors.cpu().numpy().tobytes()).hexdigest()
        kept: dict[str, Any] = {
            "retriever": asdict(self.settings),
            "vectors": f"vectors-{digest[:16]}.safetensors",
        }
        kept["sha256"] = digest
        write_tensors(folder / kept["vectors"], tensors, {})
        if self._index is not None:
            data = faiss().serialize_index(self._index).tobytes()
            kept["index_sha256"] = hashlib.sha256(data).hexdigest()
            kept["index"] = f"index-{kept['index_sha256'][:16]}.faiss"
            write_whole(folder / kept["index"], data)
        write_whole(folder / "retriever.json", (json.dumps(kept, indent=2) + "\n").encode())
        for old in (*folder.glob("vectors-*.safetensors"), *folder.glob("index-*.faiss")):
            if old.name not in (kept["vectors"], kept.get("index")):
                old.unlink()

    @classmethod
    def load(cls, folder: Path) -> "Retriever":
        """Read what `save` wrote, on the CPU.

        Raises:
            BadInput: naming the file that is missing, damaged or of something else.
        """
        where = folder / "retriever.json"
        kept = read_json(where)
        try:
            settings = RetrieverSettings(**kept["retriever"])
            files = {key: str(kept[key]) for key in ("vectors", "index") if key in kept}
            digests = {"vectors": str(kept["sha256"]), "index": str(kept.get("index_sha256"))}
            size = int("index" in files)
        except (KeyError, TypeError) as error:
            raise BadInput(f"{where} does not describe a retriever ({first_line(error)})") from error
        for file in files.values():
            if Path(file).name != file:
                raise BadInput(f"{where}: the file {file} is outside the folder")
        vectors = read_tensors(folder / files["vectors"])[0].get("vectors")
        if vectors is None or vectors.dim() != 2 or vectors.dtype != torch.float32:
            raise BadInput(f"{folder / files['vectors']} holds no vectors [item, dim]")
        _check_digest(folder / files["vectors"], vectors.numpy().tobytes(), digests["vectors"])
        new = cls(vectors, RetrieverSettings())  # nothing is built
        new.settings = settings
        if size != int(settings.kind != "exact" and len(vectors) >= SMALL):
            raise BadInput(
                f"{where} is of kind {settings.kind}, and {'has an' if size else 'lacks its'} index"
            )
        if size:
            path = folder / files["index"]
            if not path.is_file():
                raise BadInput(f"there is no file {path}, which {where} names")
            data = path.read_bytes()
            _check_digest(path, data, digests["index"])
            new._index = faiss().deserialize_index(np.frombuffer(data, dtype=np.uint8))
            if (new._index.ntotal, new._index.d) != tuple(vectors.shape):
                raise BadInput(
                    f"{path} is of {new._index.ntotal} items, but there are {len(vectors)} vectors"
                )
        return new

    def _exactly(
        self, states: Float[Tensor, "user dim"], count: int
    ) -> tuple[Int[Tensor, "user cand"], Float[Tensor, "user cand"]]:
        """Search exactly on the vectors' device, and answer on the states'."""
        here = states.to(self.vectors.device, torch.float32)
        items, scores = exact_search(here, self.vectors, count)
        return items.to(states.device), scores.to(states.device)

    def _check(self, states: Tensor, count: int) -> None:
        """Refuse what cannot be searched for."""
        n, width = self.vectors.shape
        if not 1 <= count <= n:
            raise BadInput(f"count is 1 to {n}, the number of items, not {count}")
        if states.dim() != 2 or states.shape[1] != width:
            raise BadInput(f"states are [user, {width}] as the vectors are, not {list(states.shape)}")
        _finite("states, row", states)


def _share(found: Int[Tensor, "user cand"], best: Int[Tensor, "user cand"]) -> Float[Tensor, " user"]:
    """Return the share of the best items that were found."""
    best = best.sort(1).values
    at = torch.searchsorted(best, found.contiguous()).clamp(max=best.shape[1] - 1)
    return (best.gather(1, at) == found).float().mean(1)


def _finite(what: str, values: Tensor) -> None:
    """Refuse what is not finite, naming the first."""
    if not bool(values.isfinite().all()):
        row, column = (int(x) for x in (~values.isfinite()).nonzero()[0])
        raise BadInput(f"{what} {row}, column {column}: {float(values[row, column])} is not finite")


def _check_digest(path: Path, data: bytes, wanted: str) -> None:
    """Refuse a file whose content is not what was written."""
    if hashlib.sha256(data).hexdigest() != wanted:
        raise BadInput(f"{path} is damaged: its SHA-256 is not the one in retriever.json")
