// The last four levels of a transform on 16 words in four registers of AVX2: two across registers, a transpose, two more.
//
// Register r holds words 4r … 4r+3, after the transpose word r of four groups. The last two levels have no twiddles.
#pragma once

static VL_FN void transpose4(V4* r) {
    const __m256i a = _mm256_unpacklo_epi64(r[0].v, r[1].v), b = _mm256_unpackhi_epi64(r[0].v, r[1].v);
    const __m256i c = _mm256_unpacklo_epi64(r[2].v, r[3].v), d = _mm256_unpackhi_epi64(r[2].v, r[3].v);
    r[0].v = _mm256_permute2x128_si256(a, c, 0x20), r[1].v = _mm256_permute2x128_si256(b, d, 0x20);
    r[2].v = _mm256_permute2x128_si256(a, c, 0x31), r[3].v = _mm256_permute2x128_si256(b, d, 0x31);
}

static void dif_base(u64* x, const u64* tw, const u64*) {
    V4 r[4];
    for (int k = 0; k < 4; ++k) r[k] = load<V4>(x + 4 * k);
    dif4(r[0], r[1], r[2], r[3], load<V4>(tw), load<V4>(tw + 4), load<V4>(tw + 8));
    transpose4(r);
    Halves s0 = halves(r[0]), s1 = halves(r[2]), s2 = halves(r[1]), s3 = halves(r[3]);
    sum_difference(s0, s1);
    sum_difference(s2, s3);
    s3 = times48(s3);
    r[0] = reduce_signed(s0 + s2), r[1] = reduce_signed(s0 - s2), r[2] = reduce_signed(s1 - s3), r[3] = reduce_signed(s1 + s3);
    transpose4(r);
    for (int k = 0; k < 4; ++k) store(x + 4 * k, r[k]);
}

template <bool SCALED>
static void dit_base(u64* x, const u64* tw, const u64*, const u64* from, const u64* scale) {
    V4 r[4], s[4];
    Halves h[4];
    for (int k = 0; k < 4; ++k) r[k] = load<V4>((SCALED ? from : x) + 4 * k);
    transpose4(r);
    if (SCALED) {
        for (int k = 0; k < 4; ++k) s[k] = load<V4>(scale + 4 * k);
        transpose4(s);
    }
    for (int k = 0; k < 4; ++k) h[k] = SCALED ? product(r[k], s[k]) : halves(r[k]);
    dit4(h[0], h[1], h[2], h[3]);
    for (int k = 0; k < 4; ++k) r[k] = reduce_signed(h[k]);
    transpose4(r);
    dit4(r[0], r[1], r[2], r[3], load<V4>(tw), load<V4>(tw + 4), load<V4>(tw + 8));
    for (int k = 0; k < 4; ++k) store(x + 4 * k, r[k]);
}
