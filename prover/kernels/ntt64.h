// The last six levels of a transform on 64 words in eight registers: three across registers, a transpose, three more.
//
// Register r holds words 8r … 8r+7. Size-16 blocks are two registers; after the transpose register r holds word r of eight
// groups, and the roots of order 8 are powers of two: w_8 = 2^120 = -2^24, i = 2^48.
#pragma once

static VL_FN void transpose8(V8* r) {
    __m512i a[8], b[8];
    for (int k = 0; k < 8; k += 2) {
        a[k] = _mm512_unpacklo_epi64(r[k].v, r[k + 1].v);
        a[k + 1] = _mm512_unpackhi_epi64(r[k].v, r[k + 1].v);
    }
    for (int k = 0; k < 2; ++k) {
        b[k] = _mm512_shuffle_i64x2(a[k], a[k + 2], 0x88);
        b[k + 2] = _mm512_shuffle_i64x2(a[k], a[k + 2], 0xDD);
        b[k + 4] = _mm512_shuffle_i64x2(a[k + 4], a[k + 6], 0x88);
        b[k + 6] = _mm512_shuffle_i64x2(a[k + 4], a[k + 6], 0xDD);
    }
    for (int k = 0; k < 4; ++k) {
        r[k].v = _mm512_shuffle_i64x2(b[k], b[k + 4], 0x88);
        r[k + 4].v = _mm512_shuffle_i64x2(b[k], b[k + 4], 0xDD);
    }
}

// a, b to a + b, a - b; b canonical
static VL_FN void sum_difference(V8& a, V8& b) {
    V8 s = addr(a, b);
    b = subr(a, b);
    a = s;
}

static void dif_base(u64* x, const u64* tw, const u64* top) {
    V8 r[8];
    for (int k = 0; k < 8; ++k) r[k] = load<V8>(x + 8 * k);
    for (int k = 0; k < 2; ++k)
        dif4(r[k], r[k + 2], r[k + 4], r[k + 6], load<V8>(tw + 8 * k), load<V8>(tw + 16 + 8 * k), load<V8>(tw + 32 + 8 * k));
    V8 w = load<V8>(top);
    for (int k = 0; k < 8; k += 2) {
        r[k + 1] = canon(r[k + 1]);
        sum_difference(r[k], r[k + 1]);
        r[k + 1] = mulr(r[k + 1], w);
    }
    transpose8(r);
    for (int k = 4; k < 8; ++k) r[k] = canon(r[k]);
    for (int k = 0; k < 4; ++k) sum_difference(r[k], r[k + 4]);
    // inverse roots: w^-1 = 2^72, w^-2 = -2^48, w^-3 = 2^24; a minus sign is a swap in the next level
    r[5] = shiftr<24>(shiftr<48>(r[5]));
    r[6] = shiftr<48>(r[6]);
    r[7] = shiftr<24>(r[7]);
    for (int k = 2; k < 8; ++k) r[k] = canon(r[k]);
    sum_difference(r[0], r[2]);
    sum_difference(r[1], r[3]);
    V8 even = r[4], odd = r[5];
    r[4] = subr(even, r[6]), r[6] = addr(even, r[6]);
    r[5] = addr(odd, r[7]), r[7] = subr(odd, r[7]);
    r[3] = shiftr<48>(r[3]), r[7] = shiftr<48>(r[7]);  // w_4^-1 = -2^48
    for (int k = 1; k < 8; k += 2) r[k] = canon(r[k]);
    sum_difference(r[0], r[1]);
    sum_difference(r[4], r[5]);
    even = r[2], r[2] = subr(even, r[3]), r[3] = addr(even, r[3]);
    even = r[6], r[6] = subr(even, r[7]), r[7] = addr(even, r[7]);
    transpose8(r);
    for (int k = 0; k < 8; ++k) store(x + 8 * k, canon(r[k]));
}

static void dit_base(u64* x, const u64* tw, const u64* top) {
    V8 r[8];
    for (int k = 0; k < 8; ++k) r[k] = load<V8>(x + 8 * k);
    transpose8(r);
    for (int k = 0; k < 8; k += 2) sum_difference(r[k], r[k + 1]);
    // level 2: r[1] ± i·r[3], level 3: w_8^k = 1, -2^24, 2^48, -2^72
    r[3] = shiftr<48>(r[3]), r[7] = shiftr<48>(r[7]);
    for (int k = 0; k < 8; k += 4) {
        r[k + 2] = canon(r[k + 2]), r[k + 3] = canon(r[k + 3]);
        sum_difference(r[k], r[k + 2]);
        sum_difference(r[k + 1], r[k + 3]);
    }
    r[5] = shiftr<24>(r[5]);
    r[6] = shiftr<48>(r[6]);
    r[7] = shiftr<24>(shiftr<48>(r[7]));
    for (int k = 4; k < 8; ++k) r[k] = canon(r[k]);
    sum_difference(r[0], r[4]);
    sum_difference(r[2], r[6]);
    V8 a = r[1], b = r[3];
    r[1] = subr(a, r[5]), r[5] = addr(a, r[5]);
    r[3] = subr(b, r[7]), r[7] = addr(b, r[7]);
    transpose8(r);
    V8 w = load<V8>(top);
    for (int k = 0; k < 8; k += 2) {
        r[k + 1] = canon(mulr(r[k + 1], w));
        sum_difference(r[k], r[k + 1]);
    }
    for (int k = 0; k < 2; ++k)
        dit4(r[k], r[k + 2], r[k + 4], r[k + 6], load<V8>(tw + 8 * k), load<V8>(tw + 16 + 8 * k), load<V8>(tw + 32 + 8 * k));
    for (int k = 0; k < 8; ++k) store(x + 8 * k, canon(r[k]));
}
