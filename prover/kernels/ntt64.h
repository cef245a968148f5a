// The last six levels of a transform on 64 words in eight registers: three across registers, a transpose, three more.
//
// Register r holds words 8r … 8r+7. Size-16 blocks are two registers; after the transpose register r holds word r of eight
// groups.
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
    dif8(r);
    transpose8(r);
    for (int k = 0; k < 8; ++k) store(x + 8 * k, canon(r[k]));
}

template <bool SCALED>
static void dit_base(u64* x, const u64* tw, const u64* top, const u64* from, const u64* scale) {
    V8 r[8];
    for (int k = 0; k < 8; ++k) r[k] = SCALED ? gmul(load<V8>(from + 8 * k), load<V8>(scale + 8 * k)) : load<V8>(x + 8 * k);
    transpose8(r);
    dit8(r);
    transpose8(r);
    V8 w = load<V8>(top);
    for (int k = 0; k < 8; k += 2) {
        r[k + 1] = canon(mulr(r[k + 1], w));
        sum_difference(r[k], r[k + 1]);
    }
    for (int k = 0; k < 2; ++k)
        dit4(r[k], r[k + 2], r[k + 4], r[k + 6], load<V8>(tw + 8 * k), load<V8>(tw + 16 + 8 * k), load<V8>(tw + 32 + 8 * k));
    for (int k = 0; k < 8; ++k) store(x + 8 * k, r[k]);
}
