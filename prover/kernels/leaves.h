// Runs of entries, each from arrays of its own (prover/backend/leaves.py): committed integers, leaves of the tree of fractions,
// multiplicities. Narrow tiles are in narrow.h, a GPU's bodies in device.h.
#pragma once
#include "bodies.h"

// Of several runs the one that has entry `index` of them all; `first` is where a run begins there.
template <class Run>
VL_FN const Run& run_at(const Run* runs, u64 count, u64 index) {
    u64 lo = 0, hi = count - 1;  // the last one that begins at or before it
    while (lo < hi) {
        const u64 middle = (lo + hi + 1) / 2;
        if (runs[middle].first <= index)
            lo = middle;
        else
            hi = middle - 1;
    }
    return runs[lo];
}

// Rows of n1 entries in pieces of 2^bits, those of all rows side by side, and the next piece of each `apart` entries further; or, with
// bits = WHOLE and row = n1, one row after the other.
enum { WHOLE = 63 };
struct Pieces {
    u64 n1, bits, row, apart;
    VL_FN u64 place(u64 i, u64 j) const { return i * row + (j >> bits) * apart + (j & ((1ULL << bits) - 1)); }
    VL_FN u64 row_of(u64 index) const { return index >> 32 || n1 >> 32 ? index / n1 : (u32)index / (u32)n1; }
};

struct ArrayRun {
    Integers x;
    u64 size, first;
};
struct EmbedRun {  // entries go to `start` on
    Integers x;
    u64 size, first, start;
    Pieces pieces;
};
struct EmbedRuns {  // integers to F
    const EmbedRun* runs;
    u64* out;
    u64 count;
};
struct Count {  // counts[x - least] += 1 where that is a place
    const ArrayRun* runs;
    u64* counts;
    u64 least, size, count;
};

struct LincombRun {  // entries from `start` on: const + Σ_k coefs[k]·columns[k]
    Integers columns[4];
    u64 coefs0[4], coefs1[4];
    u64 const0, const1, start, size, count, first;
};
struct Lincombs {
    const LincombRun* runs;
    u64 *out0, *out1;
    u64 count;
};
struct Lincomb {  // const + Σ_k coefs[k]·columns[k]
    const Integers* columns;
    const u64 *coefs0, *coefs1;
    u64 *out0, *out1;
    u64 count, const0, const1;
    VL_FN u64 cost() const { return 2 * count; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        KLinear<V> sum(K<u64>{const0, const1});
        for (u64 k = 0; k < count; ++k) sum.mac(kload<u64>(coefs0, coefs1, k), columns[k].field<V>(j));
        kstore(out0, out1, j, sum.value());
    }
};

#ifndef VL_CUDA
struct EmbedPieces {  // index (piece, entry)
    Integers x;
    u64* out;
    Pieces at;
    void row(u64 k, u64 j, u64 end) const {
        const u64 first = k << at.bits, i = at.row_of(first);
        const Integers from = x.from(first);
        u64* to = out + at.place(i, first - i * at.n1);
#ifdef VL_WIDE
        for (; j + Lanes<VL_WIDE>::count <= end; j += Lanes<VL_WIDE>::count) store(to + j, from.field<VL_WIDE>(j));
#endif
        for (; j < end; ++j) store(to + j, from.field<u64>(j));
    }
};
VL_EXPORT void vl_count(const Count* given, u64, u64) {  // one thread: two would count in the same places
    const Count c = *given;
    for (const ArrayRun* run = c.runs; run < c.runs + c.count; ++run)
        typed(run->x, [&](auto integers) {
            const auto* x = integers.x;
            for (u64 j = 0; j < run->size; ++j) {
                __builtin_prefetch(x + j + 128);  // additions to the same place wait for each other, and then memory does too
                const u64 place = load_int<u64>(x + j) - c.least;
                if (place < c.size) ++c.counts[place];
            }
        });
}
VL_EXPORT void vl_embed_runs(const EmbedRuns* given, u64, u64) {
    for (const EmbedRun* run = given->runs; run < given->runs + given->count; ++run) {
        u64* out = given->out + run->start;
        const Pieces at = run->pieces;
        if (at.bits == WHOLE)
            typed(run->x, [&](auto x) { run_map(Embed<decltype(x)>{x, out}, 1, run->size); });
        else
            parallel(run->size, run->size, [&](unsigned, u64 lo, u64 hi) {
                const EmbedPieces body{run->x, out, at};
                each_row(1ULL << at.bits, lo, hi, [&](u64 k, u64 j, u64 end) { body.row(k, j, end); });
            });
    }
}
VL_EXPORT void vl_lincombs(const Lincombs* given, u64, u64) {
    for (const LincombRun* run = given->runs; run < given->runs + given->count; ++run) {
        u64 *out0 = given->out0 + run->start, *out1 = given->out1 + run->start;
        run_map(Lincomb{run->columns, run->coefs0, run->coefs1, out0, out1, run->count, run->const0, run->const1}, 1, run->size);
    }
}
#endif
