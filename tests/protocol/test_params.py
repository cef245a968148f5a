"""The registered profiles, number by number; test_soundness.py says why they are enough."""

from dataclasses import replace

import pytest

from protocol.field import GOLDILOCKS
from protocol.params import MIN_BITS, PROFILES, profile, query_bits

QUERIES = {10: 240, 11: 210, 12: 192, 13: 180, 14: 170, 16: 160, 18: 156, 20: 152}


def test_profiles() -> None:
    assert MIN_BITS == 100 and set(PROFILES) == {f"goldilocks-2^{log_ell}" for log_ell in QUERIES}
    for log_ell, queries in QUERIES.items():
        p = profile(f"goldilocks-2^{log_ell}")
        assert (p.name, p.field, p.ell, p.n, p.queries) == (f"goldilocks-2^{log_ell}", GOLDILOCKS, 2**log_ell, 2 ** (log_ell + 2), queries)
        code = p.code(3)
        assert (code.field, code.ell, code.n, code.blinding) == (GOLDILOCKS, p.ell, p.n, 3 * queries)


def test_too_few_queries_allow_no_opening_at_all() -> None:
    assert replace(profile("goldilocks-2^12"), queries=100).max_openings == 0 and profile("goldilocks-2^12").max_openings == 12


@pytest.mark.parametrize(("rate", "queries", "bits"), [(0.0, 1, 1.0), (1.0, 240, 0.0), (0.5, 100, 41.50374992788438), (0.25, 160, 108.49)])
def test_query_bits(rate: float, queries: int, bits: float) -> None:
    assert query_bits(rate, queries) == pytest.approx(bits, abs=0.01)
