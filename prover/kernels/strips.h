// Loops over strips of K arrays that stay in the cache; fractions.h composes them. Each loop is small, so that a processor
// keeps several iterations in flight: one loop over all of it took half as long again (docs/log.md, "Lookups"). Strips of 128
// entries, because tables whose sizes are powers of two share the sets of the caches: few at a time, each for a while.
// Loops with products ask for what the next strips read (`next`), a line of 64 bytes in each turn; else products wait for memory
// and memory for products. Products take any words, so what only they read is not reduced. An output may be an input: an entry is
// read before it is written. CPU only.
#pragma once
#include "bodies.h"

struct Planes {
    const u64 *a, *b;
    template <class V>
    VL_FN K<V> at(u64 j) const { return kload<V>(a, b, j); }
    VL_FN Planes from(u64 j) const { return Planes{a + j, b + j}; }
    VL_FN void fetch(u64 j) const { __builtin_prefetch(a + j), __builtin_prefetch(b + j); }
};

struct Strip {
    enum { LENGTH = 128 };
    alignas(64) u64 a[LENGTH], b[LENGTH];
    VL_FN operator Planes() const { return Planes{a, b}; }
    VL_FN Planes fill(K<u64> x) {
        for (u64 j = 0; j < LENGTH; ++j) a[j] = x.a, b[j] = x.b;
        return *this;
    }
};

template <class V>
VL_APART void strip_fold(Planes low, Planes high, u64* out0, u64* out1, const KScale<V>& given, u64 n) {  // low + r·(high - low)
    const KScale<V> r = given;
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        low.fetch(j + n), high.fetch(j + n);
        K<V> x = low.at<V>(j), y = high.at<V>(j);
        kstore(out0, out1, j, r.times_plus(K<V>{subr(y.a, x.a), subr(y.b, x.b)}, x));
    }
}
template <class V>
VL_APART void strip_two(Planes low, Planes high, Strip& out, u64 n) {  // 2·high - low: the value at X = 2
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        K<V> x = low.at<V>(j), y = high.at<V>(j);
        kstore(out.a, out.b, j, K<V>{addr(subr(y.a, x.a), y.a), addr(subr(y.b, x.b), y.b)});
    }
}
template <class V>
VL_APART void strip_scale(Planes x, Planes c, Strip& out, const KScale<V>& given, u64 n, const Planes* next) {  // r·x + c
    const KScale<V> r = given;
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        next[0].fetch(j), next[1].fetch(j);
        kstore(out.a, out.b, j, r.times_plus(x.at<V>(j), c.at<V>(j)));
    }
}
template <class V>
VL_APART void strip_kmul_add(Planes x, Planes y, Planes z, Planes w, Strip& out, u64 n, const Planes* next) {  // x·y + z·w
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        next[0].fetch(j), next[1].fetch(j);
        kstore(out.a, out.b, j, kmul_add(x.at<V>(j), y.at<V>(j), z.at<V>(j), w.at<V>(j)));
    }
}
template <class V>
VL_APART void strip_kmul(Planes x, Planes y, K<u64> a, K<u64> b, Strip& out, u64 n, const Planes* next) {  // (x + a)·(y + b)
    const K<V> av = kspread<V>(a.a, a.b), bv = kspread<V>(b.a, b.b);
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        next[0].fetch(j), next[1].fetch(j);
        K<V> c = x.at<V>(j), d = y.at<V>(j);
        kstore(out.a, out.b, j, kmul(K<V>{addr(c.a, av.a), addr(c.b, av.b)}, K<V>{addr(d.a, bv.a), addr(d.b, bv.b)}));
    }
}
template <class V>
VL_APART void strip_mac(KSum<V>& given, Planes x, Planes y, u64 n) {  // += Σ x·y
    KSum<V> sum = given;
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        y.fetch(j + n);
        sum.mac(x.at<V>(j), y.at<V>(j));
    }
    given = sum;
}
