"""Anchor groups: the steps of one task that saw the same observation (as in GiGPO, 2505.10978).

Ids are dense integers in first-seen order and never shared between tasks, so the other modules need
no task id next to them. How an observation becomes a key is the environment's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import count

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Indel
from rapidfuzz.process import cdist

from stapo.algo.checks import require_config
from stapo.algo.config import AdvantageConfig, SimilarityFit

IntArray = npt.NDArray[np.int64]

_SLAB = 256  # texts that are compared with all founders at once


def exact_groups(group_b: npt.ArrayLike, keys: Sequence[Hashable]) -> IntArray:
    """Group rows whose task and key are both equal.

    Args:
        group_b: (B,) task of each row, integers or strings.
        keys: B canonical observation keys.

    Returns:
        (B,) int64 anchor ids 0, 1, … in first-seen order.

    Raises:
        ValueError: the two lengths differ.
    """
    groups = _group_list(group_b, keys)
    ids: defaultdict[tuple[Hashable, Hashable], int] = defaultdict(count().__next__)
    return np.fromiter(map(ids.__getitem__, zip(groups, keys, strict=True)), np.int64, len(groups))


def similarity_groups(
    group_b: npt.ArrayLike, texts: Sequence[str], threshold: float = 0.9, *, fit: SimilarityFit = "first"
) -> IntArray:
    """Group rows of a task greedily by text similarity; every row lands in exactly one group.

    A text joins a group of its task whose first member is at least `threshold` similar, and founds a
    group where there is none. Of several it joins the one that was founded first, or the one whose
    first member is most similar (`fit`). Similarity is 2 * LCS / (len a + len b)
    (normalized Indel). The field's code uses difflib's ratio, the same formula with matching blocks
    in the place of the longest common subsequence; ours is never below it, symmetric, and fast
    enough for whole batches.

    Args:
        group_b: (B,) task of each row, integers or strings.
        texts: B observations.
        threshold: in [0, 1].
        fit: ``first`` or ``best``; of equally similar ones the first.

    Returns:
        (B,) int64 anchor ids 0, 1, … in first-seen order.

    Raises:
        ValueError: the two lengths differ.
    """
    groups = _group_list(group_b, texts)
    # Equal texts are similar to all the same texts, so only distinct ones are compared.
    distinct = exact_groups(group_b, texts)
    _, first_row = np.unique(distinct, return_index=True)
    by_task: defaultdict[Hashable, list[int]] = defaultdict(list)
    for text_id, row in enumerate(first_row.tolist()):
        by_task[groups[row]].append(text_id)
    founder = np.empty(len(first_row), dtype=np.int64)
    for members in by_task.values():
        own = [texts[first_row[m]] for m in members]
        founders = _greedy(own, members, threshold)
        founder[members] = founders if fit == "first" else _nearest(own, members, founders)
    # A founder is the earliest text of its group, so ranking founders is ranking groups by first
    # sight.
    _, anchor = np.unique(founder[distinct], return_inverse=True)
    return anchor.astype(np.int64, copy=False)


def anchor_groups(group_b: npt.ArrayLike, keys: Sequence[str], config: AdvantageConfig) -> IntArray:
    """Group rows as `config.anchor` says: `exact_groups` or `similarity_groups`."""
    require_config(config, AdvantageConfig)
    if config.anchor == "similarity":
        return similarity_groups(group_b, keys, config.similarity_threshold, fit=config.similarity_fit)
    return exact_groups(group_b, keys)


def _group_list(group_b: npt.ArrayLike, keys: Sequence[Hashable]) -> list[Hashable]:
    groups: list[Hashable] = np.asarray(group_b).tolist()
    if len(groups) != len(keys):
        raise ValueError(f"group_b has {len(groups)} rows and there are {len(keys)} keys; expected as many.")
    return groups


def _greedy(texts: list[str], ids: list[int], threshold: float) -> list[int]:
    """Return for each text the id of its group's founder.

    Taking all matches of the first free text at once gives the same groups as placing texts one by
    one into the first group that fits, and needs one batched comparison per group rather than one
    per text.
    """
    founder = [-1] * len(texts)
    free = list(range(len(texts)))
    while free:
        head = free[0]
        # float64 and a hair of slack keep a similarity of exactly the threshold on the right side
        # of it.
        score = cdist(
            [texts[head]],
            [texts[i] for i in free],
            scorer=Indel.normalized_similarity,
            # rapidfuzz rounds its cutoff: closer to the threshold it drops scores that are exactly at it.
            score_cutoff=max(threshold - 1e-6, 0.0),
            dtype=np.float64,
        )[0]
        joins = score >= threshold - 1e-9
        joins[0] = True
        for i, joined in zip(free, joins.tolist(), strict=True):
            if joined:
                founder[i] = ids[head]
        free = [i for i, joined in zip(free, joins.tolist(), strict=True) if not joined]
    return founder


def _nearest(texts: list[str], ids: list[int], founders: list[int]) -> list[int]:
    """Return for each text the id of the most similar founder before it, or its own.

    Whether a text founds a group does not depend on which group the others join, so founders are those
    of `_greedy`. One that was founded later had not been there to be joined.
    """
    place = {text_id: at for at, text_id in enumerate(ids)}
    first = sorted(place[text_id] for text_id in set(founders))
    joined = [at for at, text_id in enumerate(ids) if founders[at] != text_id]
    nearest = list(ids)
    for start in range(0, len(joined), _SLAB):
        slab = joined[start : start + _SLAB]
        score = cdist(
            [texts[at] for at in slab],
            [texts[at] for at in first],
            scorer=Indel.normalized_similarity,
            dtype=np.float64,
        )
        score[np.asarray(first)[None, :] > np.asarray(slab)[:, None]] = -1.0
        for at, best in zip(slab, score.argmax(axis=1).tolist(), strict=True):
            nearest[at] = ids[first[best]]
    return nearest
