// Per-index bodies of the prover's array operations; prover/backend/base.py says what each computes.
//
// Names of planes: a0, a1 are the two planes of the K array a. Tables are split at their top variable: entry j of the low
// half and entry j of the high half are passed as separate plane pointers, so a half of a larger array needs no copy.
#pragma once
#include "integers.h"

template <class V>
struct Pair {  // the values of low + X·(high - low) at X = 1 and X = 2; the second is loose (plane a not reduced)
    K<V> one, two;
};
template <class V>
VL_FN Pair<V> at_one_two(K<V> low, K<V> high) {
    return Pair<V>{high, K<V>{addr(subr(high.a, low.a), high.a), canon(addr(subr(high.b, low.b), high.b))}};
}

struct Mul {  // out = a·b over F
    const u64 *a, *b;
    u64* out;
    VL_FN u64 cost() const { return 1; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        store(out + j, gmul(load<V>(a + j), load<V>(b + j)));
    }
};

template <class X>
struct Embed {  // integers to F
    X x;
    u64* out;
    template <class Y>
    VL_FN Embed<Y> of(Y y) const {
        return Embed<Y>{y, out};
    }
    VL_FN u64 cost() const { return 1; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        store(out + j, x.template field<V>(j));
    }
};

template <class X>
struct Lift {  // integers to K
    X x;
    u64 *out0, *out1;
    template <class Y>
    VL_FN Lift<Y> of(Y y) const {
        return Lift<Y>{y, out0, out1};
    }
    VL_FN u64 cost() const { return 1; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        kstore(out0, out1, j, K<V>{x.template field<V>(j), spread<V>(0)});
    }
};

struct SumLast {  // one row per index i, n1 = 1: Σ_k x[i, k] over F
    const u64* x;
    u64* out;
    u64 n;
    VL_FN u64 cost() const { return n; }
    template <class V>
    VL_FN void at(u64 i, u64) const {
        Acc<u64> sum;
        sum.clear();
        for (u64 k = 0; k < n; ++k) sum.mac(x[i * n + k], 1);
        out[i] = sum.value();
    }
};

struct KScaleBy {  // out = r·a
    const u64 *a0, *a1;
    u64 *out0, *out1;
    u64 r0, r1;
    VL_FN u64 cost() const { return 3; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        kstore(out0, out1, j, kmul(kload<V>(a0, a1, j), kspread<V>(r0, r1)));
    }
};

struct KMul {  // out = a·b
    const u64 *a0, *a1, *b0, *b1;
    u64 *out0, *out1;
    VL_FN u64 cost() const { return 3; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        kstore(out0, out1, j, kmul(kload<V>(a0, a1, j), kload<V>(b0, b1, j)));
    }
};

struct KDot {  // Σ a·b
    enum { SUMS = 1 };
    const u64 *a0, *a1, *b0, *b1;
    u64* out;
    VL_FN u64 cost() const { return 3; }
    template <class V>
    VL_FN void at(u64, u64 j, KAcc<V>* sums) const {
        sums[0].mac(kload<V>(a0, a1, j), kload<V>(b0, b1, j));
    }
};

struct EqStep {  // one more variable on top of a table of `size` entries: t becomes (t - r·t, r·t), in place or elsewhere
    const u64 *t0, *t1;
    u64 *out0, *out1;
    u64 size, r0, r1;
    VL_FN u64 cost() const { return 3; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        K<V> t = kload<V>(t0, t1, j), ones = kmul(t, kspread<V>(r0, r1));
        kstore(out0, out1, j, ksub(t, ones));
        kstore(out0, out1, j + size, ones);
    }
};

struct EqSuffixes {  // CPU: the tables eq of the last k variables of a point, each from the one before, at entry 2^k; that of none is there
    const u64 *point0, *point1;
    u64 *out0, *out1;
};

struct Powers {  // CPU: base^i for i < count
    u64 base;
    u64* out;
};

struct FoldTop {  // out = low + r·(high - low)
    const u64 *low0, *low1, *high0, *high1;
    u64 *out0, *out1;
    u64 r0, r1;
    VL_FN u64 cost() const { return 3; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        K<V> low = kload<V>(low0, low1, j), high = kload<V>(high0, high1, j);
        kstore(out0, out1, j, kadd(low, kmul(ksub(high, low), kspread<V>(r0, r1))));
    }
};

struct ProductRound {  // Σ A·B at X = 1, 2
    enum { SUMS = 2 };
    const u64 *al0, *al1, *ah0, *ah1, *bl0, *bl1, *bh0, *bh1;
    u64* out;
    VL_FN u64 cost() const { return 6; }
    template <class V>
    VL_FN void at(u64, u64 j, KAcc<V>* sums) const {
        Pair<V> a = at_one_two(kload<V>(al0, al1, j), kload<V>(ah0, ah1, j));
        Pair<V> b = at_one_two(kload<V>(bl0, bl1, j), kload<V>(bh0, bh1, j));
        sums[0].mac(a.one, b.one);
        sums[1].mac(a.two, b.two);
    }
};

struct ProductItem {  // one pair of tables of 2·size entries if `fold`, else of `size`
    u64 *a0, *a1, *b0, *b1;
    u64 size, fold, coef0, coef1;
};
struct ProductRounds {  // CPU: folds the pairs in place, then Σ coef·(Σ A·B at X = 1, 2)
    const ProductItem* items;
    u64* out;
    u64 r0, r1;
};

// What fold_axis sums: integers, F, K.
template <class X>
struct FoldedIntegers {
    X x;
    template <class V>
    VL_FN void mac(KAcc<V>& sum, K<V> w, u64 i) const {
        sum.macf(w, x.template field<V>(i));
    }
};
struct FoldedF {
    const u64 *x, *none;
    template <class V>
    VL_FN void mac(KAcc<V>& sum, K<V> w, u64 i) const {
        sum.macf(w, load<V>(x + i));
    }
};
struct FoldedK {
    const u64 *x0, *x1;
    template <class V>
    VL_FN void mac(KAcc<V>& sum, K<V> w, u64 i) const {
        sum.mac(w, kload<V>(x0, x1, i));
    }
};

template <class X>
struct Weight {  // index (i, j): x_ij·u_i·v_j
    X x;
    const u64 *u0, *u1, *v0, *v1;
    u64 *out0, *out1;
    u64 n1;
    template <class Y>
    VL_FN Weight<Y> of(Y y) const {
        return Weight<Y>{y, u0, u1, v0, v1, out0, out1, n1};
    }
    VL_FN u64 cost() const { return 5; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        K<V> uv = kmul(kspread<V>(u0[i], u1[i]), kload<V>(v0, v1, j));
        kstore(out0, out1, i * n1 + j, kmulf(uv, x.template field<V>(i * n1 + j)));
    }
};

// Committed rows F and their weights K in groups of four, one for each value q = 2X + Y of their two top row variables: row q·n + i of
// the group i. Weights have rows 0 … 4n − 1; where `rows` is -1 a row does not exist and counts as zero.
struct RowGroups {
    const u64 *f, *w0, *w1;
    const i64* rows;
    u64 n, ell;
    VL_FN u64 weight(u64 q, u64 i, u64 j) const { return (q * n + i) * ell + j; }
    template <class V>
    VL_FN V value(u64 q, u64 i, u64 j) const {
        const i64 row = rows[q * n + i];
        return row < 0 ? spread<V>(0) : load<V>(f + (u64)row * ell + j);
    }
};

struct OpenSums {  // index (group, column): Σ F·W at X = 0, 1, ∞ (a coefficient), and for each Y = 0, 1, ∞
    enum { SUMS = 9 };
    RowGroups of;
    u64* out;
    VL_FN u64 cost() const { return 8; }
    template <class V>
    static VL_FN void extend(V* x) {  // entry 3X + Y; those at 0 and 1 are given
        x[2] = gsub(x[1], x[0]), x[5] = gsub(x[4], x[3]);
        for (int y = 0; y < 3; ++y) x[6 + y] = gsub(x[3 + y], x[y]);
    }
    template <class V, class Sum>
    VL_FN void at(u64 i, u64 j, Sum* sums) const {
        V f[9], w[9];
        for (u64 q = 0; q < 4; ++q) f[q + q / 2] = of.value<V>(q, i, j);
        extend(f);
        for (u64 q = 0; q < 4; ++q) w[q + q / 2] = load<V>(of.w0 + of.weight(q, i, j));
        extend(w);
        for (int k = 0; k < 9; ++k) sums[k].f0.mac(w[k], f[k]);
        for (u64 q = 0; q < 4; ++q) w[q + q / 2] = load<V>(of.w1 + of.weight(q, i, j));
        extend(w);
        for (int k = 0; k < 9; ++k) sums[k].f1.mac(w[k], f[k]);
    }
};

struct OpenFold {  // index (group, column): Σ_q e_q·row q of F and of W
    RowGroups of;
    u64 *f0, *f1, *g0, *g1;
    u64 e[8];
    VL_FN u64 cost() const { return 8; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        KAcc<V> f, g;
        f.clear(), g.clear();
        for (u64 q = 0; q < 4; ++q) {
            const K<V> eq = kspread<V>(e[2 * q], e[2 * q + 1]);
            f.macf(eq, of.value<V>(q, i, j));
            g.mac(eq, kload<V>(of.w0, of.w1, of.weight(q, i, j)));
        }
        kstore(f0, f1, i * of.ell + j, kvalue(f));
        kstore(g0, g1, i * of.ell + j, kvalue(g));
    }
};

VL_HOST_MAP(vl_mul, Mul)
VL_INTEGER_MAP(vl_embed, Embed)
VL_INTEGER_MAP(vl_lift, Lift)
VL_HOST_MAP(vl_sum_last, SumLast)
VL_HOST_MAP(vl_kscale, KScaleBy)
VL_MAP(vl_kmul, KMul)
VL_SUM(vl_kdot, KDot)
VL_MAP(vl_fold_top, FoldTop)
VL_SUM(vl_product_round, ProductRound)
#ifndef VL_CUDA
VL_EXPORT void vl_eq_suffixes(const EqSuffixes* given, u64 count, u64) {
    const EqSuffixes e = *given;
    for (u64 k = 0; k < count; ++k) {
        const u64 n = 1ULL << k, at = count - 1 - k;
        run_map(EqStep{e.out0 + n, e.out1 + n, e.out0 + 2 * n, e.out1 + 2 * n, n, e.point0[at], e.point1[at]}, 1, n);
    }
}
VL_EXPORT void vl_powers(const Powers* given, u64 count, u64) {
    const Powers p = *given;
    parallel(count, 4 * count, [&](unsigned, u64 lo, u64 hi) {
        u64 x = 1, base = p.base;
        for (u64 rest = lo; rest; rest >>= 1, base = gmul(base, base))
            if (rest & 1) x = gmul(x, base);
        for (u64 i = lo; i < hi; ++i, x = gmul(x, p.base)) p.out[i] = x;
    });
}
VL_EXPORT void vl_product_rounds(const ProductRounds* given, u64 count, u64) {
    const u64 r0 = given->r0, r1 = given->r1;
    K<u64> total[2] = {{0, 0}, {0, 0}};
    for (u64 i = 0; i < count; ++i) {
        const ProductItem& x = given->items[i];
        const u64 n = x.size, half = n / 2;
        if (x.fold) {
            run_map(FoldTop{x.a0, x.a1, x.a0 + n, x.a1 + n, x.a0, x.a1, r0, r1}, 1, n);
            run_map(FoldTop{x.b0, x.b1, x.b0 + n, x.b1 + n, x.b0, x.b1, r0, r1}, 1, n);
        }
        if (!half) continue;
        u64 g[4];
        run_sum(ProductRound{x.a0, x.a1, x.a0 + half, x.a1 + half, x.b0, x.b1, x.b0 + half, x.b1 + half, g}, 1, half);
        for (int k = 0; k < 2; ++k) total[k] = kadd(total[k], kmul(K<u64>{x.coef0, x.coef1}, K<u64>{g[2 * k], g[2 * k + 1]}));
    }
    for (int k = 0; k < 2; ++k) given->out[2 * k] = total[k].a, given->out[2 * k + 1] = total[k].b;
}
#endif
VL_INTEGER_MAP(vl_weight, Weight)
VL_SUM(vl_open_sums, OpenSums)
VL_MAP(vl_open_fold, OpenFold)
