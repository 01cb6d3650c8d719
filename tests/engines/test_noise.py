import numpy as np

from stepcredit.engines.noise import stream_key, uniform


def test_splitmix64_reference_values():
    """The published first outputs of SplitMix64 seeded with 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = [uniform(np.array([1234567], dtype=np.uint64), p)[0] for p in range(4)]
    assert found == [(z >> 11) * 2.0**-53 for z in expected]


def test_keys_tell_seed_prompt_and_sample_apart():
    keys = {int(stream_key(s, p, k)) for s in (0, 1, 11) for p in ("a", "b", "1") for k in (0, 1, 11)}
    assert len(keys) == 27


def test_uniform_over_keys_and_positions():
    keys = np.array([stream_key(0, str(i), 0) for i in range(500)])
    draws = np.stack([uniform(keys, p) for p in range(40)])
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert abs(counts - 1000).max() < 5 * 31
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.03
