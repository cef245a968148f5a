// How one per-index body becomes a kernel: a grid-stride loop on CUDA, or loops over 8 or 4 lanes and 1 lane on CPU threads.
//
// A body is a struct of 8-byte words (pointers and integers; K arrays are two plane pointers) with
//   template <class V> VL_FN void at(u64 i, u64 j [, KAcc<V>* sums]) const
// for index (i, j) of an n0 x n1 space; lanes run along j. VL_MAP makes a map, VL_SUM a map with SUMS sums over K whose
// values go to the body's `out` (two words each; on CUDA per block: out[2·SUMS·block …], added up by the caller).
// VL_ROWS is VL_SUM with a CPU form of its own, `void row(u64 i, K<u64>* sums) const`, for sums that are weighted row by row;
// with VL_ENTRYWISE, which CUDA implies and a test sets for the CPU, it is VL_SUM, so the body that GPUs run is run there too.
// Callers pass the struct as an array of words (CPU) or by value (CUDA).
#pragma once
#include "field.h"

#ifdef VL_CUDA
#define VL_ENTRYWISE
#define VL_THREADS 256

#define VL_MAP(NAME, BODY)                                                                     \
    extern "C" __global__ void NAME(BODY body, u64 n0, u64 n1) {                               \
        for (u64 x = blockIdx.x * (u64)blockDim.x + threadIdx.x; x < n0 * n1;                  \
             x += (u64)gridDim.x * blockDim.x)                                                 \
            body.template at<u64>(x / n1, x % n1);                                             \
    }

#define VL_SUM(NAME, BODY)                                                                     \
    extern "C" __global__ void NAME(BODY body, u64 n0, u64 n1) {                               \
        __shared__ u64 part[VL_THREADS];                                                       \
        KAcc<u64> sums[BODY::SUMS];                                                            \
        for (int s = 0; s < BODY::SUMS; ++s) sums[s].clear();                                  \
        for (u64 x = blockIdx.x * (u64)blockDim.x + threadIdx.x; x < n0 * n1;                  \
             x += (u64)gridDim.x * blockDim.x)                                                 \
            body.template at<u64>(x / n1, x % n1, sums);                                       \
        for (int w = 0; w < 2 * BODY::SUMS; ++w) {                                             \
            K<u64> value = kvalue(sums[w / 2]);                                                \
            part[threadIdx.x] = w % 2 ? value.b : value.a;                                     \
            for (u32 half = blockDim.x / 2; half; half /= 2) {                                 \
                __syncthreads();                                                               \
                if (threadIdx.x < half)                                                        \
                    part[threadIdx.x] = gadd(part[threadIdx.x], part[threadIdx.x + half]);     \
            }                                                                                  \
            if (threadIdx.x == 0) body.out[blockIdx.x * 2 * BODY::SUMS + w] = part[0];         \
            __syncthreads();                                                                   \
        }                                                                                      \
    }

#define VL_ROWS VL_SUM
#else
#include "wide.h"
#include "threads.h"

template <class F>
static VL_FN void each_row(u64 n1, u64 lo, u64 hi, const F& row) {
    while (lo < hi) {
        u64 i = lo / n1, j = lo % n1, end = hi - lo < n1 - j ? j + (hi - lo) : n1;
        row(i, j, end);
        lo += end - j;
    }
}

template <class B>
static void run_map(const B& given, u64 n0, u64 n1) {
    parallel(n0 * n1, n0 * n1 * given.cost(), [&](unsigned, u64 lo, u64 hi) {
        const B body = given;  // a copy of its own, so that stores cannot be taken to change it
        each_row(n1, lo, hi, [&](u64 i, u64 j, u64 end) {
#ifdef VL_WIDE
            for (; j + Lanes<VL_WIDE>::count <= end; j += Lanes<VL_WIDE>::count) body.template at<VL_WIDE>(i, j);
#endif
            for (; j < end; ++j) body.template at<u64>(i, j);
        });
#ifdef VL_WIDE
        _mm_sfence();  // stores past the caches are in order before another thread is told
#endif
    });
}

static void add_parts(const std::vector<K<u64>>& parts, u64* out, unsigned S) {
    for (unsigned s = 0; s < S; ++s) {
        K<u64> total{0, 0};
        for (u64 id = 0; id * S < parts.size(); ++id) total = kadd(total, parts[id * S + s]);
        out[2 * s] = total.a;
        out[2 * s + 1] = total.b;
    }
}

template <class B>
static void run_sum(const B& given, u64 n0, u64 n1) {
    const unsigned S = B::SUMS;
    std::vector<K<u64>> parts(S * thread_count(), K<u64>{0, 0});
    parallel(n0 * n1, n0 * n1 * given.cost(), [&](unsigned id, u64 lo, u64 hi) {
        const B body = given;
        KAcc<u64> sums[S];
        for (unsigned s = 0; s < S; ++s) sums[s].clear();
#ifdef VL_WIDE
        KAcc<VL_WIDE> wide[S];
        for (unsigned s = 0; s < S; ++s) wide[s].clear();
#endif
        each_row(n1, lo, hi, [&](u64 i, u64 j, u64 end) {
#ifdef VL_WIDE
            for (; j + Lanes<VL_WIDE>::count <= end; j += Lanes<VL_WIDE>::count) body.template at<VL_WIDE>(i, j, wide);
#endif
            for (; j < end; ++j) body.template at<u64>(i, j, sums);
        });
#ifdef VL_WIDE
        for (unsigned s = 0; s < S; ++s) drain(wide[s], sums[s]);
#endif
        for (unsigned s = 0; s < S; ++s) parts[id * S + s] = kvalue(sums[s]);
    });
    add_parts(parts, given.out, S);
}

#ifndef VL_ENTRYWISE
template <class B>
static void run_rows(const B& given, u64 n0, u64 n1) {
    const unsigned S = B::SUMS;
    std::vector<K<u64>> parts(S * thread_count(), K<u64>{0, 0});
    parallel(n0, n0 * n1 * given.cost(), [&](unsigned id, u64 lo, u64 hi) {
        const B body = given;
        K<u64> sums[S];
        for (unsigned s = 0; s < S; ++s) sums[s] = K<u64>{0, 0};
        for (u64 i = lo; i < hi; ++i) body.row(i, sums);
        for (unsigned s = 0; s < S; ++s) parts[id * S + s] = sums[s];
    });
    add_parts(parts, given.out, S);
}
#endif

#define VL_EXPORT extern "C" __attribute__((visibility("default")))
#define VL_MAP(NAME, BODY) \
    VL_EXPORT void NAME(const BODY* body, u64 n0, u64 n1) { run_map(*body, n0, n1); }
#define VL_SUM(NAME, BODY) \
    VL_EXPORT void NAME(const BODY* body, u64 n0, u64 n1) { run_sum(*body, n0, n1); }
#ifdef VL_ENTRYWISE
#define VL_ROWS VL_SUM
#else
#define VL_ROWS(NAME, BODY) \
    VL_EXPORT void NAME(const BODY* body, u64 n0, u64 n1) { run_rows(*body, n0, n1); }
#endif
#endif
