// Sums over one axis of a tensor under weights (Backend.fold_axis). A tensor is read once and comes from memory, so what a fold costs is
// waiting: neighbours in memory are folded together, and entries are asked for AHEAD steps before they are used. CPU only; device.h has
// a GPU's form.
#pragma once
#include "bodies.h"

enum { AHEAD = 16, TOGETHER = 4 };  // vectors folded together

template <class T>
VL_FN void fetch(const FoldedIntegers<IntegersOf<T>>& x, u64 i) {
    __builtin_prefetch(x.x.x + i);
}
VL_FN void fetch(const FoldedF& x, u64 i) { __builtin_prefetch(x.x + i); }
VL_FN void fetch(const FoldedK& x, u64 i) { __builtin_prefetch(x.x0 + i), __builtin_prefetch(x.x1 + i); }

template <class X>
struct FoldAxis {  // index (outer, inner): Σ_k w_k·x[outer, k, inner]
    X x;
    const u64 *w0, *w1;
    u64 *out0, *out1;
    u64 n, inner;
    VL_FN u64 cost() const { return 2 * n; }
    template <class Y>
    FoldAxis<Y> of(Y y) const {
        return FoldAxis<Y>{y, w0, w1, out0, out1, n, inner};
    }
    template <class V, int GROUP>
    void group(u64 i, u64 j) const {
        enum { COUNT = Lanes<V>::count };
        KAcc<V> sums[GROUP];
        for (int g = 0; g < GROUP; ++g) sums[g].clear();
        u64 at = i * n * inner + j;
        for (u64 k = 0; k < n; ++k, at += inner) {
            const K<V> w = kspread<V>(w0[k], w1[k]);
            for (int g = 0; g < GROUP; ++g) {
                const u64 here = at + g * COUNT, next = here + AHEAD * inner;
                fetch(x, next);
                x.template mac<V>(sums[g], w, here);
            }
        }
        for (int g = 0; g < GROUP; ++g) kstore(out0, out1, i * inner + j + g * COUNT, kvalue(sums[g]));
    }
};

template <class X>
struct FoldLast {  // one row per index i, n1 = 1: Σ_k w_k·x[i, k]; lanes run along k
    X x;
    const u64 *w0, *w1;
    u64 *out0, *out1;
    u64 n;
    VL_FN u64 cost() const { return 2 * n; }
    template <class Y>
    FoldLast<Y> of(Y y) const {
        return FoldLast<Y>{y, w0, w1, out0, out1, n};
    }
    template <class V>
    VL_FN void at(u64 i, u64) const {
        KAcc<u64> sum;
        sum.clear();
        u64 k = 0, at = i * n;
#ifdef VL_WIDE
        enum { COUNT = Lanes<VL_WIDE>::count };
        KAcc<VL_WIDE> wide;
        wide.clear();
        for (; k + COUNT <= n; k += COUNT) {
            fetch(x, at + k + AHEAD * COUNT);
            x.template mac<VL_WIDE>(wide, kload<VL_WIDE>(w0, w1, k), at + k);
        }
        if (k) drain(wide, sum);
#endif
        for (; k < n; ++k) x.template mac<u64>(sum, kload<u64>(w0, w1, k), at + k);
        kstore(out0, out1, i, kvalue(sum));
    }
};

template <class X>
static void fold_axis(const FoldAxis<X>& given, u64 outer, u64 inner) {
    parallel(outer * inner, outer * inner * given.cost(), [&](unsigned, u64 lo, u64 hi) {
        const FoldAxis<X> body = given;
        each_row(inner, lo, hi, [&](u64 i, u64 j, u64 end) {
#ifdef VL_WIDE
            const u64 one = Lanes<VL_WIDE>::count, some = TOGETHER * one;
            for (; j + some <= end; j += some) body.template group<VL_WIDE, TOGETHER>(i, j);
            for (; j + one <= end; j += one) body.template group<VL_WIDE, 1>(i, j);
#endif
            for (; j < end; ++j) body.template group<u64, 1>(i, j);
        });
    });
}

VL_EXPORT void vl_fold_axis_int(const FoldAxis<Integers>* body, u64 outer, u64 inner) {
    typed(body->x, [&](auto x) { fold_axis(body->of(FoldedIntegers<decltype(x)>{x}), outer, inner); });
}
VL_EXPORT void vl_fold_axis_f(const FoldAxis<FoldedF>* body, u64 outer, u64 inner) { fold_axis(*body, outer, inner); }
VL_EXPORT void vl_fold_axis_k(const FoldAxis<FoldedK>* body, u64 outer, u64 inner) { fold_axis(*body, outer, inner); }
VL_EXPORT void vl_fold_last_int(const FoldLast<Integers>* body, u64 outer, u64 n1) {
    typed(body->x, [&](auto x) { run_map(body->of(FoldedIntegers<decltype(x)>{x}), outer, n1); });
}
VL_HOST_MAP(vl_fold_last_f, FoldLast<FoldedF>)
VL_HOST_MAP(vl_fold_last_k, FoldLast<FoldedK>)
