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
    r[2] = canon(r[2]), r[3] = canon(r[3]);
    V4 s0 = addr(r[0], r[2]), s1 = subr(r[0], r[2]);
    V4 s2 = canon(addr(r[1], r[3])), s3 = canon(shiftr<48>(subr(r[1], r[3])));
    r[0] = addr(s0, s2), r[1] = subr(s0, s2), r[2] = subr(s1, s3), r[3] = addr(s1, s3);
    transpose4(r);
    for (int k = 0; k < 4; ++k) store(x + 4 * k, canon(r[k]));
}

static void dit_base(u64* x, const u64* tw, const u64*) {
    V4 r[4];
    for (int k = 0; k < 4; ++k) r[k] = load<V4>(x + 4 * k);
    transpose4(r);
    V4 s0 = addr(r[0], r[1]), s1 = subr(r[0], r[1]);
    V4 s2 = canon(addr(r[2], r[3])), s3 = canon(shiftr<48>(subr(r[2], r[3])));
    r[0] = addr(s0, s2), r[2] = subr(s0, s2), r[1] = addr(s1, s3), r[3] = subr(s1, s3);
    transpose4(r);
    dit4(r[0], r[1], r[2], r[3], load<V4>(tw), load<V4>(tw + 4), load<V4>(tw + 8));
    for (int k = 0; k < 4; ++k) store(x + 4 * k, canon(r[k]));
}
