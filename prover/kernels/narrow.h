// Narrow tiles (prover/backend/tiled.py): entry j is base - words[j] with words of 16 bits, as leaves with one column are. What a level's
// first passes compute from them are products with small integers (Small and SmallSum in one_lane.h), and 2 bytes an entry are read
// instead of 16. CPU only.
#pragma once
#include "strips.h"

struct Narrowing {  // index (tile, entry): words = x - first, where found[tile] says first: 1 for 0, 2 for -2^15, 0 for neither
    const i64* x;
    u16* words;
    u8* found;
    u64 size;
    void tile(u64 i) const {
        const i64* from = x + i * size;
        u16* to = words + i * size;
        u64 plain = 0, moved = 0;
        for (u64 j = 0; j < size; ++j) {
            const u64 v = (u64)from[j];
            plain |= v, moved |= v + 0x8000;
            to[j] = (u16)v;
        }
        found[i] = plain < 0x10000 ? 1 : moved < 0x10000 ? 2 : 0;
        if (found[i] == 2)
            for (u64 j = 0; j < size; ++j) to[j] ^= 0x8000;
    }
};

VL_EXPORT void vl_narrow(const Narrowing* given, u64 tiles, u64 size) {
    const Narrowing body = *given;
    parallel(tiles, tiles * size, [&](unsigned, u64 lo, u64 hi) {
        for (u64 i = lo; i < hi; ++i) body.tile(i);
    });
}

VL_FN K<u64> knegative(K<u64> x) { return ksub(K<u64>{0, 0}, x); }

template <class V>
VL_APART void narrow_widen(K<u64> base, const u16* x, Strip& out, u64 n) {  // base - x
    const K<V> from = kspread<V>(base.a, base.b);
    for (u64 j = 0; j < n; j += Lanes<V>::count) kstore(out.a, out.b, j, K<V>{gsub(from.a, load_short<V>(x + j)), from.b});
}
template <class V>
VL_APART void narrow_fold(const Small<V>& given, const u16* low, const u16* high, u64* out0, u64* out1, u64 n) {
    const Small<V> fold = given;
    for (u64 j = 0; j < n; j += Lanes<V>::count)
        kstore(out0, out1, j, fold.at(load_short<V>(low + j), load_short<V>(high + j), spread<V>(0)));
}
// low + r·(high - low) of two narrow tiles, as narrow_fold computes it
template <class V>
VL_FN Small<V> folding(K<u64> low, K<u64> high, K<u64> r) {
    return Small<V>(kadd(low, kmul(r, ksub(high, low))), ksub(r, K<u64>{1, 0}), knegative(r));
}
// 1/(a - x) + 1/(b - y): p = a + b - x - y, q = ab - bx - ay + xy
template <class V>
VL_APART void narrow_layer(K<u64> a, K<u64> b, const u16* x, const u16* y, u64* p0, u64* p1, u64* q0, u64* q1, u64 n) {
    const K<u64> sum = kadd(a, b);
    const K<V> from = kspread<V>(sum.a, sum.b);
    const Small<V> product(kmul(a, b), knegative(b), knegative(a));
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        const V c = load_short<V>(x + j), d = load_short<V>(y + j);
        kstore_past(p0, p1, j, K<V>{gsub(from.a, plus_small(c, d)), from.b});
        kstore_past(q0, q1, j, product.at(c, d, times_small(c, d)));
    }
}
template <class V>
VL_APART K<u64> narrow_sum(Planes w, const u16* x, u64 n) {  // Σ w·x
    SmallSum<V> sum;
    sum.clear();
    for (u64 j = 0; j < n; j += Lanes<V>::count) sum.mac(w.at<V>(j), load_short<V>(x + j));
    return sum.value();
}

// Sums over two tables' tiles at X = 1 and X = 2, where a word becomes 2·high - low + 2^16
enum { MOVED = 1 << 16 };
template <class V>
VL_FN V at_two(V low, V high) {
    return minus_small(plus_small(plus_small(high, high), spread<V>(MOVED)), low);
}
template <class V>
VL_APART Pair<u64> narrow_products(Planes w, const u16* const* x, const u16* const* y, u64 n) {  // Σ w·x·y; [0] low, [1] high
    SmallSum<V> one, two;
    one.clear(), two.clear();
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        const K<V> weight = w.at<V>(j);
        const V low = load_short<V>(x[0] + j), high = load_short<V>(x[1] + j), below = load_short<V>(y[0] + j), above = load_short<V>(y[1] + j);
        one.mac(weight, times_small(high, above));
        two.mac_long(weight, times_small(at_two(low, high), at_two(below, above)));
    }
    return Pair<u64>{one.value(), two.value()};
}
