"""Retrieval: the best few of a million items by inner product, exactly or by an index of faiss.

A ranker whose score is an inner product has `item_vectors()`, and its `encode` is the query: columns of
ones carry the biases, so nothing is added here. What an index finds is measured against the exact search
(`Retriever.recall`), never taken on trust.
"""

from simlab.retrieval.exact import exact_search
from simlab.retrieval.index import KINDS, RetrieverSettings
from simlab.retrieval.retriever import Retriever

__all__ = ["KINDS", "Retriever", "RetrieverSettings", "exact_search"]
