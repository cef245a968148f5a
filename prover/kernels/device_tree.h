// The tree of fractions on a GPU: a layer, or a round, is one launch, which also says of every tile of its results whether it is
// uniform. fractions.h has the same for the CPU; tables and tiles are those of prover/backend/tiled.py.
//
// The thread of a tile's first entry writes the tile's flag and value. Where a result has no room for flags it is written in full, as
// tables that go to the host's memory are. Launched by prover/backend/device_tree.py.
#pragma once
#include "bodies.h"

struct Table {
    const u64 *x0, *x1;
    const u8* uniform;  // null: no tile is
    const u64 *v0, *v1;
    VL_FN bool same(u64 tile) const { return uniform && uniform[tile]; }
    VL_FN K<u64> value(u64 tile) const { return kload<u64>(v0, v1, tile); }
    VL_FN bool zero(u64 tile) const { return same(tile) && !(v0[tile] | v1[tile]); }
    VL_FN bool one(u64 tile) const { return same(tile) && v0[tile] == 1 && v1[tile] == 0; }
    VL_FN K<u64> get(u64 tile, u64 size, u64 j) const { return same(tile) ? value(tile) : kload<u64>(x0, x1, tile * size + j); }
};

struct Made {  // a table that is written: `uniform` is null if it has no flags
    u64 *x0, *x1;
    u8* uniform;
    u64 *v0, *v1;
    VL_FN bool wanted(u64 j, bool same) const { return !uniform || !same || !j; }
    VL_FN void put(u64 tile, u64 size, u64 j, bool same, K<u64> x) const {
        if (!uniform || !same) kstore(x0, x1, tile * size + j, x);
        if (!uniform || j) return;
        uniform[tile] = same;
        kstore(v0, v1, tile, same ? x : K<u64>{0, 0});
    }
};

struct FractionLayer {  // index (tile, entry): (p0·q1 + p1·q0) / (q0·q1); a product with a uniform zero is uniform
    Table p0, p1, q0, q1;
    Made p, q;
    u64 size;
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        const bool left = (p0.same(i) && q1.same(i)) || p0.zero(i), right = (p1.same(i) && q0.same(i)) || p1.zero(i);
        const K<u64> a = q0.get(i, size, j), b = q1.get(i, size, j);
        const bool p_same = left && right, q_same = q0.same(i) && q1.same(i);
        if (p.wanted(j, p_same)) {
            const bool ones = p0.one(i) && p1.one(i);
            p.put(i, size, j, p_same, ones ? kadd(a, b) : kmul_add(p0.get(i, size, j), b, p1.get(i, size, j), a));
        }
        if (q.wanted(j, q_same)) q.put(i, size, j, q_same, q1.one(i) ? a : kmul(a, b));
    }
};

// Σ eq·(p0 q1 + p1 q0 + μ q0 q1) at X = 1, 2 over index (tile, entry), μ = 1/λ, three products an entry; the caller multiplies by λ.
// The high halves of the tables lie `half` tiles on. FOLD: the tables are first folded by r (their upper halves lie 2·half tiles on)
// into `made`, whose cells may be theirs. Notes which tables have uniform tiles. Where numerators are 1, as those of lookups are, the sum is
// μ·((q0 + λ)·(q1 + λ) − λ²); where all is uniform, a tile's first entry has the weight of all (Σ lo = 1) and the others are left out.
template <bool FOLD>
struct FractionSum {
    enum { SUMS = 2 };
    Table table[4];  // p0, p1, q0, q1
    Made made[4];
    const u64 *lo0, *lo1, *hi0, *hi1;
    u64* out;
    u64 size, half, mu0, mu1, lam0, lam1, square0, square1, r0, r1;
    VL_FN bool settled(u64 i) const {  // and nothing of it has to be written but flags and values
        bool same = !FOLD || made[0].uniform;
        for (int k = 0; k < 4; ++k)
            for (int n = 0; n < (FOLD ? 4 : 2); ++n) same = same && table[k].same(i + n * half);
        return same;
    }
    template <int k>
    VL_FN K<u64> entry(u64 tile, u64 j) const {
        const Table& t = table[k];
        const K<u64> low = t.get(tile, size, j);
        bool same = t.same(tile);
        K<u64> x = low;
        if (FOLD) {
            const u64 above = tile + 2 * half;
            const K<u64> high = t.get(above, size, j);
            same = same && t.same(above);
            if (!same || low.a != high.a || low.b != high.b)  // most uniform tiles of leaves are 0 or 1
                x = KScale<u64>(K<u64>{r0, r1}).times_plus(ksub(high, low), low);
            made[k].put(tile, size, j, same, x);
        }
        if (same && !j) *note(out, k) = 1;
        return x;
    }
    static VL_FN bool ones(Pair<u64> p) { return p.one.a == 1 && p.two.a == 1 && !(p.one.b | p.two.b); }
    template <int k>
    VL_FN Pair<u64> pair(u64 i, u64 j) const {
        const K<u64> low = entry<k>(i, j);
        return at_one_two(low, entry<k>(i + half, j));
    }
    template <class V>
    VL_FN void at(u64 i, u64 j, KAcc<V>* sums) const {
        const bool alone = settled(i);
        if (alone && j) return;
        K<u64> eq = kload<u64>(hi0, hi1, i);
        if (!alone) eq = kmul(eq, kload<u64>(lo0, lo1, j));
        const K<u64> lam{lam0, lam1}, square{square0, square1};
        const KScale<u64> mu(K<u64>{mu0, mu1});
        const Pair<u64> p0 = pair<0>(i, j), p1 = pair<1>(i, j), q0 = pair<2>(i, j), q1 = pair<3>(i, j);
        if (ones(p0) && ones(p1)) {
            eq = kmul(eq, mu.r);
            sums[0].mac(eq, ksub(kmul(kadd(q0.one, lam), kadd(q1.one, lam)), square));
            sums[1].mac(eq, ksub(kmul(kadd(q0.two, lam), kadd(q1.two, lam)), square));
        } else {
            sums[0].mac(eq, kmul_add(q1.one, mu.times_plus(q0.one, p0.one), p1.one, q0.one));
            sums[1].mac(eq, kmul_add(q1.two, mu.times_plus(q0.two, p0.two), p1.two, q0.two));
        }
    }
};

VL_MAP(vl_fraction_layer, FractionLayer)
VL_SUM(vl_fraction_round, FractionSum<false>)
VL_SUM(vl_fraction_fold_round, FractionSum<true>)
