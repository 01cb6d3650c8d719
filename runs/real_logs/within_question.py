"""Does a score rank right above wrong responses within a question, at a share of the response?

Measured for all pairs, and for pairs matched on length and on who wrote the response. The baselines need no model:
shorter responses, the success rate of who wrote it, and a bag-of-words classifier on the same share of the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepcredit import Episode, load_episodes
from stepcredit.episodes.alignment import Trajectory
from stepcredit.logs.import_logs import ImportConfig, import_logs
from stepcredit.metrics.ranking import Estimate, auc_difference, auc_within

SHARES = (0.25, 0.5, 0.75, 1.0)
LENGTH_TOLERANCE, RATE_TOLERANCE = 0.1, 0.03
"""Matched pairs: lengths within 10% of each other, success rates of the writers within 3 points."""
VALUE, SHORTER, WRITER, WORDS = "value", "shorter", "variant_success_rate", "bag_of_words"
"""Names of the scores."""

Scores = dict[str, dict[float, NDArray[np.float64]]]
"""Name → share → one number per response."""


def read(file: Path, out: Path) -> Sequence[Episode]:
    """Import the logs with the importer, as a user would."""
    columns = ["completion=response", "prompt_id=qid"]
    print(import_logs(ImportConfig(files=[str(file)], output_dir=str(out), columns=columns)).summary())
    return list(load_episodes(out))


def hashed(name: str) -> float:
    """A number from 0 to 1 that depends on a name only."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def split_by_question(episodes: Sequence[Episode], test_share: float) -> tuple[list[Episode], list[Episode]]:
    """(train, test): all responses to a question fall on the same side, by a hash of its number."""
    test = {e.prompt_id for e in episodes if hashed(e.prompt_id) < test_share}
    return [e for e in episodes if e.prompt_id not in test], [e for e in episodes if e.prompt_id in test]


def position_at(trajectory: Trajectory, share: float) -> int:
    """Position of the action before which this share of the response's tokens was read; 1.0: the end token."""
    positions = np.flatnonzero(trajectory.action_mask)
    return int(positions[int(share * (len(positions) - 1))])


def value_at(trajectory: Trajectory, value: NDArray[np.float32], share: float) -> float:
    """V after this share of the response's tokens; 1.0 is the state before the end token."""
    return float(value[position_at(trajectory, share)])


def variant_rates(train: Sequence[Episode], column: str) -> dict[str, float]:
    """Success rate on the training questions of each variant or system, named in a column of the metadata."""
    rewards: dict[str, list[float]] = {}
    for episode in train:
        assert episode.reward is not None
        rewards.setdefault(episode.metadata[column], []).append(episode.reward)
    return {name: float(np.mean(r)) for name, r in rewards.items()}


def bag_of_words(train: Sequence[Episode], test: Sequence[Episode], share: float) -> NDArray[np.float64]:
    """P(right) by logistic regression on the words and word pairs of the same share of the response."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = [[prefix(e, share) for e in part] for part in (train, test)]
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=5, sublinear_tf=True)
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(vectors.fit_transform(texts[0]), [e.reward == 1 for e in train])
    probabilities: NDArray[np.float64] = classifier.predict_proba(vectors.transform(texts[1]))[:, 1]
    return probabilities


def prefix(episode: Episode, share: float) -> str:
    """The first characters of a response, up to this share."""
    text = str(episode.completion)
    return text[: int(share * len(text))]


def lengths(episodes: Sequence[Episode]) -> NDArray[np.float64]:
    """Characters of each response."""
    return np.array([len(str(e.completion)) for e in episodes], dtype=np.float64)


def rates_of(episodes: Sequence[Episode], column: str, rates: Mapping[str, float]) -> NDArray[np.float64]:
    """Success rate of who wrote each response."""
    return np.array([rates[e.metadata[column]] for e in episodes])


def scores_of(
    train: Sequence[Episode],
    test: Sequence[Episode],
    column: str,
    value: Mapping[float, ArrayLike],
    rates: Mapping[str, float] | None = None,
) -> Scores:
    """V and the baselines at each share, fitted to the training responses; rates: of the column, if not theirs."""
    writer = rates_of(test, column, variant_rates(train, column) if rates is None else rates)
    shorter = -lengths(test)
    return {
        VALUE: {share: np.asarray(x, dtype=np.float64) for share, x in value.items()},
        SHORTER: dict.fromkeys(SHARES, shorter),
        WRITER: dict.fromkeys(SHARES, writer),
        WORDS: {share: bag_of_words(train, test, share) for share in SHARES},
    }


def controls_of(
    episodes: Sequence[Episode], column: str, rates: Mapping[str, float]
) -> list[tuple[NDArray[np.float64], float]]:
    """The numbers on which pairs are matched, with their tolerances."""
    length = np.log(np.maximum(lengths(episodes), 1))
    return [(length, LENGTH_TOLERANCE), (rates_of(episodes, column, rates), RATE_TOLERANCE)]


def measure(
    scores: Scores, test: Sequence[Episode], column: str, rates: Mapping[str, float], seed: int
) -> list[dict[str, Any]]:
    """One row per score, share of the response, and matching: its AUC within questions."""
    right, questions = [e.reward == 1 for e in test], [e.prompt_id for e in test]
    matched = controls_of(test, column, rates)
    return [
        row(name, share, bool(controls), auc_within(by_share[share], right, questions, controls, seed=seed))
        for share in SHARES
        for name, by_share in scores.items()
        for controls in ([], matched)
    ]


def differences(
    scores: Scores, of: str, test: Sequence[Episode], column: str, rates: Mapping[str, float], seed: int
) -> list[dict[str, Any]]:
    """One row per other score, share and matching: the AUC of a score minus that of the other, on the same pairs."""
    right, questions = [e.reward == 1 for e in test], [e.prompt_id for e in test]
    matched = controls_of(test, column, rates)
    rows = []
    for share in SHARES:
        for name, by_share in scores.items():
            for controls in ([], matched) if name != of else ():
                pair = scores[of][share], by_share[share]
                estimate = auc_difference(*pair, right, questions, controls, seed=seed)
                rows.append({**row(of, share, bool(controls), estimate), "minus": name})
    return rows


def row(name: str, share: float, is_matched: bool, e: Estimate) -> dict[str, Any]:
    """An estimate as a row."""
    numbers = {"auc": round(e.estimate, 4), "low": round(e.low, 4), "high": round(e.high, 4)}
    return {"score": name, "at": share, "matched": is_matched, **numbers, "questions": e.groups, "pairs": e.pairs}
