// Kernels that only a GPU needs: what the CPU backend leaves to NumPy, and folds cut so that there are threads enough.
// prover/backend/cuda.py launches them; shapes as in bodies.h.
#pragma once
#include "bodies.h"

struct Few {  // const + Σ_k coefs[k]·columns[k] for up to four columns, addresses and coefficients in the launch itself
    const i64* columns[4];
    u64 coefs0[4], coefs1[4];
    u64 *out0, *out1;
    u64 count, const0, const1;
    template <class V>
    VL_FN void at(u64, u64 j) const {
        KAcc<V> sum;
        sum.clear();
        for (int k = 0; k < 4; ++k)
            if ((u64)k < count) sum.macf(kspread<V>(coefs0[k], coefs1[k]), load_int<V>(columns[k] + j));
        kstore(out0, out1, j, kadd(kvalue(sum), kspread<V>(const0, const1)));
    }
};

// ---- tiles of the tree of fractions (prover/backend/tiled.py) -----------------------------------------------------

struct TileFlags {  // flags and values of one table's tiles
    const u8* uniform;
    const u64 *v0, *v1;
    VL_FN K<u64> value(u64 i) const { return kload<u64>(v0, v1, i); }
    VL_FN bool zero(u64 i) const { return uniform[i] && !(v0[i] | v1[i]); }
};

struct TileLayer {  // index j: which tiles of (p0·q1 + p1·q0, q0·q1) are uniform, and their values; one with a uniform zero is
    TileFlags p0, p1, q0, q1;
    u8 *p_uniform, *q_uniform;
    u64 *p_out0, *p_out1, *q_out0, *q_out1;
    template <class V>
    VL_FN void at(u64, u64 j) const {
        const bool left = (p0.uniform[j] && q1.uniform[j]) || p0.zero(j), right = (p1.uniform[j] && q0.uniform[j]) || p1.zero(j);
        p_uniform[j] = left && right;
        q_uniform[j] = q0.uniform[j] && q1.uniform[j];
        kstore(p_out0, p_out1, j, kadd(kmul(p0.value(j), q1.value(j)), kmul(p1.value(j), q0.value(j))));
        kstore(q_out0, q_out1, j, kmul(q0.value(j), q1.value(j)));
    }
};

struct TileFold {  // index j: a tile of fold_top is uniform where both halves' are
    TileFlags low, high;
    u8* uniform;
    u64 *out0, *out1;
    u64 r0, r1;
    template <class V>
    VL_FN void at(u64, u64 j) const {
        uniform[j] = low.uniform[j] && high.uniform[j];
        kstore(out0, out1, j, kadd(low.value(j), kmul(ksub(high.value(j), low.value(j)), kspread<u64>(r0, r1))));
    }
};

// ---- one round of a batch of product sumchecks ------------------------------------------------------------------------

struct ProductPair {  // the address words of ProductItem (bodies.h), and where its entries begin among those of all pairs
    u64 *a0, *a1, *b0, *b1;
    u64 size, fold, coef0, coef1, first;
};

// Index j: an entry of the lower half of one of `count` pairs. Folds it and its partner by r where `fold` says so, in place, and
// adds coef·A·B at X = 1, 2.
struct ProductPairs {
    enum { SUMS = 2 };
    const ProductPair* pairs;
    u64* out;
    u64 r0, r1, count;
    VL_FN K<u64> folded(u64* x0, u64* x1, u64 j, u64 size, bool fold) const {
        K<u64> low = kload<u64>(x0, x1, j);
        if (!fold) return low;
        low = kadd(low, kmul(ksub(kload<u64>(x0, x1, j + size), low), kspread<u64>(r0, r1)));
        kstore(x0, x1, j, low);
        return low;
    }
    template <class V>
    VL_FN void at(u64, u64 index, KAcc<V>* sums) const {
        u64 lo = 0, hi = count - 1;  // the last pair that begins at or before this index
        while (lo < hi) {
            const u64 middle = (lo + hi + 1) / 2;
            if (pairs[middle].first <= index)
                lo = middle;
            else
                hi = middle - 1;
        }
        const ProductPair& x = pairs[lo];
        const u64 j = index - x.first, half = x.size / 2;
        K<u64> a = folded(x.a0, x.a1, j, x.size, x.fold), b = folded(x.b0, x.b1, j, x.size, x.fold);
        if (!half) return;  // one entry, which only had to be folded
        const Pair<u64> left = at_one_two(a, folded(x.a0, x.a1, j + half, x.size, x.fold));
        const Pair<u64> right = at_one_two(b, folded(x.b0, x.b1, j + half, x.size, x.fold));
        const K<u64> coef = kspread<u64>(x.coef0, x.coef1);
        sums[0].mac(kmul(left.one, coef), right.one);
        sums[1].mac(kmul(left.two, coef), right.two);
    }
};

// ---- folds ----------------------------------------------------------------------------------------------------------

// Index (outer·parts + part, inner): the part of Σ_k w_k·x[outer, k, inner] with part·size ≤ k < (part + 1)·size. A fold has
// as many sums as outputs, which may be far fewer than a GPU has threads, so each is cut into parts, added up by a second fold.
template <int KIND>
struct FoldPart {
    const u64 *x0, *x1, *w0, *w1;
    u64 *out0, *out1;
    u64 n, inner, parts, size;
    VL_FN u64 end(u64 part) const { return (part + 1) * size < n ? (part + 1) * size : n; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        KAcc<V> sum;
        sum.clear();
        const u64 part = i % parts, stop = end(part);
        u64 k = part * size, at = (i / parts * n + k) * inner + j;
        for (; k < stop; ++k, at += inner) Element<KIND, V>::mac(sum, kspread<V>(w0[k], w1[k]), x0, x1, at);
        kstore(out0, out1, i * inner + j, kvalue(sum));
    }
};

// The same for inner = 1: a block adds up a part, its threads side by side in memory.
template <int KIND>
VL_FN void fold_row_parts(const FoldPart<KIND>& fold, u64 rows, u64* part) {
    for (u64 i = blockIdx.x; i < rows; i += gridDim.x) {
        KAcc<u64> sum;
        sum.clear();
        const u64 stop = fold.end(i % fold.parts), row = i / fold.parts * fold.n;
        for (u64 k = i % fold.parts * fold.size + threadIdx.x; k < stop; k += blockDim.x)
            Element<KIND, u64>::mac(sum, kload<u64>(fold.w0, fold.w1, k), fold.x0, fold.x1, row + k);
        const K<u64> mine = kvalue(sum);
        u64 value[2] = {mine.a, mine.b};
        add_over_block<2>(value, part);
        if (threadIdx.x == 0) kstore(fold.out0, fold.out1, i, K<u64>{value[0], value[1]});
    }
}

#define VL_FOLD_ROWS(NAME, KIND)                                                                                \
    extern "C" __global__ void NAME(FoldPart<KIND> body, u64 rows, u64) {         \
        __shared__ u64 part[2 * VL_THREADS];                                                                    \
        fold_row_parts<KIND>(body, rows, part);                                                                 \
    }

VL_MAP(vl_lincomb_few, Few)
VL_MAP(vl_tile_layer, TileLayer)
VL_MAP(vl_tile_fold, TileFold)
VL_SUM(vl_product_pairs, ProductPairs)
VL_MAP(vl_fold_part_int, FoldPart<0>)
VL_MAP(vl_fold_part_f, FoldPart<1>)
VL_MAP(vl_fold_part_k, FoldPart<2>)
VL_FOLD_ROWS(vl_fold_rows_int, 0)
VL_FOLD_ROWS(vl_fold_rows_f, 1)
VL_FOLD_ROWS(vl_fold_rows_k, 2)
