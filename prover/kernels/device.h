// Kernels that only a GPU needs: what the CPU backend leaves to NumPy, and folds cut so that there are threads enough.
// prover/backend/cuda.py launches them; shapes as in bodies.h.
#pragma once
#include "leaves.h"
#include "outer.h"

// Index j: an entry of the runs together.
struct EmbedEntries : EmbedRuns {
    template <class V>
    VL_FN void at(u64, u64 index) const {
        const EmbedRun& run = run_at(runs, count, index);
        const u64 at = index - run.first, i = run.pieces.bits == WHOLE ? 0 : run.pieces.row_of(at);
        store(out + run.start + (run.pieces.bits == WHOLE ? at : run.pieces.place(i, at - i * run.pieces.n1)), run.x.field<V>(at));
    }
};
struct LincombEntries : Lincombs {
    template <class V>
    VL_FN void at(u64, u64 index) const {
        const LincombRun& run = run_at(runs, count, index);
        const u64 j = index - run.first;
        KAcc<V> sum;
        sum.clear();
        for (u64 k = 0; k < run.count; ++k) sum.macf(kspread<V>(run.coefs0[k], run.coefs1[k]), run.columns[k].field<V>(j));
        kstore(out0, out1, run.start + j, kadd(kvalue(sum), kspread<V>(run.const0, run.const1)));
    }
};

struct Padded {
    u64 n, bits, stride;
};
struct Pad {  // index j: an entry of a table over K whose axes, the last one first, have 2^bits places, n of them filled from another
    const u64 *x0, *x1;
    u64 *out0, *out1;
    Padded axes[6];
    template <class V>
    VL_FN void at(u64, u64 j) const {
        u64 from = 0, left = j;
        bool inside = true;
        for (int k = 0; k < 6; ++k) {
            const u64 i = left & ((1ULL << axes[k].bits) - 1);
            inside = inside && i < axes[k].n;
            from += i * axes[k].stride;
            left >>= axes[k].bits;
        }
        kstore(out0, out1, j, inside ? kload<V>(x0, x1, from) : kspread<V>(0, 0));
    }
};

// ---- multiplicities ---------------------------------------------------------------------------------------------------

// leaves.h's Count, index j of the runs together. Most looked-up integers are small and many equal, and a word of memory takes one
// addition after another: each block counts for itself in SLOTS places, each for the first integer that wants it; the others go to memory.
enum { SLOTS = 1 << 11 };
extern "C" __global__ void vl_count(Count body, u64, u64 n) {
    __shared__ u32 owner[SLOTS], count[SLOTS];  // owner: 1 + place, 0 of none
    for (u32 k = threadIdx.x; k < SLOTS; k += blockDim.x) owner[k] = count[k] = 0;
    __syncthreads();
    for (u64 j = blockIdx.x * (u64)blockDim.x + threadIdx.x; j < n; j += (u64)gridDim.x * blockDim.x) {
        const ArrayRun& run = run_at(body.runs, body.count, j);
        const u64 place = run.x.at<u64>(j - run.first) - body.least;
        if (place >= body.size) continue;
        const u32 slot = place % SLOTS, mine = (u32)place + 1;
        u32 found = *(volatile u32*)(owner + slot);
        if (!found) found = atomicCAS(owner + slot, 0u, mine);
        if (!found || found == mine)
            atomicAdd(count + slot, 1u);
        else
            atomicAdd(body.counts + place, 1ULL);
    }
    __syncthreads();
    for (u32 k = threadIdx.x; k < SLOTS; k += blockDim.x)
        if (count[k]) atomicAdd(body.counts + (owner[k] - 1), (u64)count[k]);
}

// ---- eq -------------------------------------------------------------------------------------------------------------

struct EqLevels {  // index j < 2^count: entry j of the tables eq of the last k variables of a point, k ≤ count, each at entry 2^k
    u64 point0[32], point1[32];  // the last variable first
    u64 *out0, *out1;
    u64 count;
    template <class V>
    VL_FN void at(u64, u64 j) const {
        K<V> eq = kspread<V>(1, 0);
        for (u64 k = 0;; ++k) {
            if (j < 1ULL << k) kstore(out0, out1, (1ULL << k) + j, eq);
            if (k == count) return;
            const K<V> ones = kmul(eq, kspread<V>(point0[k], point1[k]));
            eq = j >> k & 1 ? ones : ksub(eq, ones);
        }
    }
};

// ---- one round of a batch of product sumchecks ------------------------------------------------------------------------

struct ProductPair {  // tables a and b, where they are put, and where their entries begin among those of all pairs
    const u64 *a0, *a1, *b0, *b1;
    u64 *to_a0, *to_a1, *to_b0, *to_b1;
    u64 size, fold, coef0, coef1, first;
};

// Index j: an entry of the lower half of one of `count` pairs. Folds it and its partner by r where `fold` says so, puts them in their
// place, which may be their own or the host's, and adds coef·A·B at X = 1, 2.
struct ProductPairs {
    enum { SUMS = 2 };
    const ProductPair* pairs;
    u64* out;
    u64 r0, r1, count;
    VL_FN K<u64> folded(const u64* x0, const u64* x1, u64* to0, u64* to1, u64 j, u64 size, bool fold) const {
        K<u64> low = kload<u64>(x0, x1, j);
        if (fold) low = KScale<u64>(K<u64>{r0, r1}).times_plus(ksub(kload<u64>(x0, x1, j + size), low), low);
        if (fold || to0 != x0) kstore(to0, to1, j, low);
        return low;
    }
    VL_FN K<u64> left(const ProductPair& x, u64 j) const { return folded(x.a0, x.a1, x.to_a0, x.to_a1, j, x.size, x.fold); }
    VL_FN K<u64> right(const ProductPair& x, u64 j) const { return folded(x.b0, x.b1, x.to_b0, x.to_b1, j, x.size, x.fold); }
    template <class V>
    VL_FN void at(u64, u64 index, KAcc<V>* sums) const {
        const ProductPair& x = run_at(pairs, count, index);
        const u64 j = index - x.first, half = x.size / 2;
        const K<u64> a = left(x, j), b = right(x, j);
        if (!half) return;  // one entry, which only had to be folded
        const Pair<u64> p = at_one_two(a, left(x, j + half)), q = at_one_two(b, right(x, j + half));
        const K<u64> coef = kspread<u64>(x.coef0, x.coef1);
        sums[0].mac(kmul(p.one, coef), q.one);
        sums[1].mac(kmul(p.two, coef), q.two);
    }
};

// ---- folds ----------------------------------------------------------------------------------------------------------

template <class V>
struct FoldOver {  // sum += Σ_k w_k·x[at + (k - first)·inner]
    KAcc<V>& sum;
    const u64 *w0, *w1;
    u64 first, stop, at, inner;
    template <class X>
    VL_FN void of(const X& x) const {
        u64 i = at;
        for (u64 k = first; k < stop; ++k, i += inner) x.template mac<V>(sum, kspread<V>(w0[k], w1[k]), i);
    }
    template <class X>
    VL_FN void operator()(X x) const {
        of(FoldedIntegers<X>{x});
    }
};
// A loop for each kind of integers: with a choice inside, loads would wait for one another.
template <class V>
VL_FN void fold_over(const FoldedIntegers<Integers>& x, const FoldOver<V>& over) {
    typed(x.x, over);
}
template <class X, class V>
VL_FN void fold_over(const X& x, const FoldOver<V>& over) {
    over.of(x);
}

// Index (outer·parts + part, inner): the part of Σ_k w_k·x[outer, k, inner] with part·size ≤ k < (part + 1)·size. A fold has
// as many sums as outputs, which may be far fewer than a GPU has threads, so each is cut into parts, added up by a second fold.
template <class X>
struct FoldPart {
    X x;
    const u64 *w0, *w1;
    u64 *out0, *out1;
    u64 n, inner, parts, size;
    VL_FN u64 end(u64 part) const { return (part + 1) * size < n ? (part + 1) * size : n; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        KAcc<V> sum;
        sum.clear();
        const u64 part = i % parts;
        fold_over(x, FoldOver<V>{sum, w0, w1, part * size, end(part), (i / parts * n + part * size) * inner + j, inner});
        kstore(out0, out1, i * inner + j, kvalue(sum));
    }
};

// The same for inner = 1: a block adds up a part, its threads side by side in memory.
template <class X>
VL_FN void fold_row_parts(const FoldPart<X>& fold, u64 rows, u64* part) {
    for (u64 i = blockIdx.x; i < rows; i += gridDim.x) {
        KAcc<u64> sum;
        sum.clear();
        const u64 stop = fold.end(i % fold.parts), row = i / fold.parts * fold.n;
        for (u64 k = i % fold.parts * fold.size + threadIdx.x; k < stop; k += blockDim.x)
            fold.x.template mac<u64>(sum, kload<u64>(fold.w0, fold.w1, k), row + k);
        const K<u64> mine = kvalue(sum);
        u64 value[2] = {mine.a, mine.b};
        add_over_block<2>(value, part);
        if (threadIdx.x == 0) kstore(fold.out0, fold.out1, i, K<u64>{value[0], value[1]});
    }
}

#define VL_FOLD_ROWS(NAME, X)                                            \
    extern "C" __global__ void NAME(FoldPart<X> body, u64 rows, u64) {  \
        __shared__ u64 part[2 * VL_THREADS];                             \
        fold_row_parts(body, rows, part);                                \
    }

VL_MAP(vl_embed_runs, EmbedEntries)
VL_MAP(vl_lincombs, LincombEntries)
VL_MAP(vl_pad, Pad)
VL_MAP(vl_eq_levels, EqLevels)
VL_SUM(vl_product_pairs, ProductPairs)
VL_MAP(vl_fold_part_int, FoldPart<FoldedIntegers<Integers>>)
VL_MAP(vl_fold_part_f, FoldPart<FoldedF>)
VL_MAP(vl_fold_part_k, FoldPart<FoldedK>)
VL_FOLD_ROWS(vl_fold_rows_int, FoldedIntegers<Integers>)
VL_FOLD_ROWS(vl_fold_rows_f, FoldedF)
VL_FOLD_ROWS(vl_fold_rows_k, FoldedK)
