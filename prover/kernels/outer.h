// Many sums of outer products in one call: prover/backend/outer.py makes the tables of items and terms.
#pragma once
#include "leaves.h"

struct OuterTerm {
    const u64 *u0, *u1, *v0, *v1;
};
struct OuterItem {  // Σ_t u[t, i]·v[t, j] in rows of n1 values of j; entries begin at `first` among those of all items
    u64 *out0, *out1;
    Pieces at;
    u64 term, terms, first, size;
};
struct OuterSums {
    const OuterItem* items;
    const OuterTerm* terms;
    u64 count, products;
    template <class V>
    VL_FN void at(const OuterItem& x, u64 i, u64 j) const {
        K<V> sum = kspread<V>(0, 0);
        for (u64 t = 0; t < x.terms; t += KSum<V>::TERMS) {
            KSum<V> part;
            part.clear();
            for (u64 k = t; k < x.terms && k < t + KSum<V>::TERMS; ++k) {
                const OuterTerm& term = terms[x.term + k];
                part.mac(kspread<V>(term.u0[i], term.u1[i]), kload<V>(term.v0, term.v1, j));
            }
            sum = kadd(sum, part.lanes());
        }
        kstore(x.out0, x.out1, x.at.place(i, j), sum);
    }
};

#ifdef VL_CUDA
// A thread looks for its item, and divides, when it has left the one before.
extern "C" __global__ void vl_outer_sums(OuterSums body, u64, u64 entries) {
    const u64 step = (u64)gridDim.x * blockDim.x;
    u64 end = 0, i = 0, j = 0, rows = 0, columns = 0;
    OuterItem x;
    for (u64 at = blockIdx.x * (u64)blockDim.x + threadIdx.x; at < entries; at += step) {
        if (at >= end) {
            x = run_at(body.items, body.count, at);
            end = x.first + x.size;
            i = (at - x.first) / x.at.n1, j = (at - x.first) % x.at.n1, rows = step / x.at.n1, columns = step % x.at.n1;
        }
        body.at<u64>(x, i, j);
        i += rows, j += columns;
        if (j >= x.at.n1) j -= x.at.n1, ++i;
    }
}
#else
VL_EXPORT void vl_outer_sums(const OuterSums* given, u64 entries, u64) {
    const OuterSums sums = *given;
    parallel(entries, 3 * sums.products + entries, [&](unsigned, u64 lo, u64 hi) {
        for (const OuterItem* item = &run_at(sums.items, sums.count, lo); lo < hi; ++item) {
            const OuterItem x = *item;
            const u64 end = hi < x.first + x.size ? hi : x.first + x.size;
            each_row(x.at.n1, lo - x.first, end - x.first, [&](u64 i, u64 j, u64 stop) {
                while (j < stop) {
                    const u64 next = ((j >> x.at.bits) + 1) << x.at.bits, piece = next < stop ? next : stop;
#ifdef VL_WIDE
                    for (; j + Lanes<VL_WIDE>::count <= piece; j += Lanes<VL_WIDE>::count) sums.at<VL_WIDE>(x, i, j);
#endif
                    for (; j < piece; ++j) sums.at<u64>(x, i, j);
                }
            });
            lo = end;
        }
    });
}

struct OuterFactor {
    const u64 *x0, *x1;
    u64 size;
};
struct Outer {  // the outer product of vectors, the last one's index fastest
    const OuterFactor* factors;
    u64 *out0, *out1;
};
VL_EXPORT void vl_outer(const Outer* given, u64 count, u64) {
    std::vector<u64> made[2];
    OuterFactor u = given->factors[0];
    for (u64 k = 1; k < count; ++k) {
        const OuterFactor& v = given->factors[k];
        const u64 size = u.size * v.size;
        u64 *to0 = given->out0, *to1 = given->out1;
        if (k < count - 1) {
            std::vector<u64>& room = made[k % 2];
            room.resize(2 * size);
            to0 = room.data(), to1 = to0 + size;
        }
        const OuterTerm term{u.x0, u.x1, v.x0, v.x1};
        const OuterItem item{to0, to1, Pieces{v.size, WHOLE, v.size, 0}, 0, 1, 0, size};
        const OuterSums sums{&item, &term, 1, size};
        vl_outer_sums(&sums, size, 1);
        u = OuterFactor{to0, to1, size};
    }
}
#endif
