// How one per-index body becomes a kernel: a grid-stride loop on CUDA, or loops over 8 or 4 lanes and 1 lane on CPU threads.
//
// A body is a struct of 8-byte words (pointers and integers; K arrays are two plane pointers) with
//   template <class V> VL_FN void at(u64 i, u64 j [, KAcc<V>* sums]) const
// for index (i, j) of an n0 x n1 space; lanes run along j. VL_MAP makes a map, VL_HOST_MAP one that CUDA does without, VL_INTEGER_MAP one
// of integers (a body over them has their type; a CPU has a loop for each kind), VL_SUM a map with
// SUMS sums over K whose values go to the body's `out` (two words each; on CUDA `out` is the room of add_over_grid, which says where).
// run_rows is the CPU's for bodies with a form of their own there, `void row(u64 i, K<u64>* sums) const`, for sums that are weighted row
// by row.
// Callers pass the struct as an array of words (CPU) or by value (CUDA).
#pragma once
#include "field.h"

#ifdef VL_CUDA
#include "few_registers.h"
#ifndef VL_THREADS
#define VL_THREADS 128  // threads of a block, a power of two; launches use as many
#endif

// The indices (i, j) that a thread visits, a whole grid at a time: one division in all, none a step.
struct Walk {
    u64 i, j, step_i, step_j, n0, n1;
    VL_FN Walk(u64 rows, u64 columns) : n0(rows), n1(columns) {
        const u64 first = blockIdx.x * (u64)blockDim.x + threadIdx.x, step = (u64)gridDim.x * blockDim.x;
        i = first / n1, j = first % n1, step_i = step / n1, step_j = step % n1;
    }
    VL_FN bool inside() const { return i < n0; }
    VL_FN void next() {
        i += step_i, j += step_j;
        if (j >= n1) j -= n1, ++i;
    }
};

// value[w] of thread 0 becomes the sum over the block's threads; `part` is shared, W words a thread. All threads call it.
template <int W>
VL_FN void add_over_block(u64* value, u64* part) {
    const u32 me = threadIdx.x, count = blockDim.x;
    for (int w = 0; w < W; ++w) part[w * count + me] = value[w];
    for (u32 half = count / 2; half; half /= 2) {
        __syncthreads();
        if (me < half)
            for (int w = 0; w < W; ++w) part[w * count + me] = gadd(part[w * count + me], part[w * count + me + half]);
    }
    if (me == 0)
        for (int w = 0; w < W; ++w) value[w] = part[w * count];
    __syncthreads();
}

// The same over the grid, in one launch: the block that comes last adds up what the others left, and writes to the host's memory.
// out: a word that counts blocks (0 before and after), the address of pinned memory on the host, NOTES words that a body may set
// to 1 (0 before and after), W words a block. What the host finds once it has waited: the notes, then W words of result.
enum { NOTES = 4 };
VL_FN u64* note(u64* out, int k) { return out + 2 + k; }
template <int W>
VL_FN void add_over_grid(u64* value, u64* part, u64* out) {
    __shared__ bool last;
    add_over_block<W>(value, part);
    u64* left = out + 2 + NOTES;
    if (threadIdx.x == 0) {
        for (int w = 0; w < W; ++w) left[blockIdx.x * (u64)W + w] = value[w];
        __threadfence();
        last = atomicAdd((u32*)out, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int w = 0; w < W; ++w) value[w] = 0;
    for (u64 block = threadIdx.x; block < gridDim.x; block += blockDim.x)
        for (int w = 0; w < W; ++w) value[w] = gadd(value[w], ((const volatile u64*)left)[block * W + w]);
    add_over_block<W>(value, part);
    if (threadIdx.x == 0) {
        u64* host = (u64*)out[1];
        for (int k = 0; k < NOTES; ++k) {
            host[k] = *(volatile u64*)note(out, k);
            *note(out, k) = 0;
        }
        for (int w = 0; w < W; ++w) host[NOTES + w] = value[w];
        *(u32*)out = 0;
    }
}

#define VL_MAP(NAME, BODY)                                                                     \
    extern "C" __global__ void NAME(BODY body, u64 n0, u64 n1) { \
        for (Walk at(n0, n1); at.inside(); at.next()) body.template at<u64>(at.i, at.j);       \
    }

#define VL_HOST_MAP(NAME, BODY)
#define VL_INTEGER_MAP(NAME, BODY) VL_MAP(NAME, BODY<Integers>)

#define VL_SUM(NAME, BODY)                                                                     \
    extern "C" __global__ void NAME(BODY body, u64 n0, u64 n1) { \
        __shared__ u64 part[2 * BODY::SUMS * VL_THREADS];                                      \
        SumsOf<BODY::SUMS>::Sum sums[BODY::SUMS];                                              \
        for (int s = 0; s < BODY::SUMS; ++s) sums[s].clear();                                  \
        for (Walk at(n0, n1); at.inside(); at.next()) body.template at<u64>(at.i, at.j, sums); \
        u64 value[2 * BODY::SUMS];                                                             \
        for (int s = 0; s < BODY::SUMS; ++s) {                                                 \
            const K<u64> sum = kvalue(sums[s]);                                                \
            value[2 * s] = sum.a, value[2 * s + 1] = sum.b;                                    \
        }                                                                                      \
        add_over_grid<2 * BODY::SUMS>(value, part, body.out);                                  \
    }

#else
#include "one_lane.h"
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

template <class B>
static void run_rows(const B& given, u64 n0, u64 n1) {
    const unsigned S = B::SUMS, EACH = 4;  // tiles of table rows, the first, cost more than others; more parts would read ahead into each other
    std::vector<K<u64>> parts(S * EACH * thread_count(), K<u64>{0, 0});
    parallel(n0, n0 * n1 * given.cost(), [&](unsigned id, u64 lo, u64 hi) {
        const B body = given;
        K<u64> sums[S];
        for (unsigned s = 0; s < S; ++s) sums[s] = K<u64>{0, 0};
        for (u64 i = lo; i < hi; ++i) body.row(i, sums);
        for (unsigned s = 0; s < S; ++s) parts[id * S + s] = sums[s];
    }, EACH);
    add_parts(parts, given.out, S);
}

#define VL_EXPORT extern "C" __attribute__((visibility("default")))
#define VL_MAP(NAME, BODY) \
    VL_EXPORT void NAME(const BODY* body, u64 n0, u64 n1) { run_map(*body, n0, n1); }
#define VL_HOST_MAP VL_MAP
#define VL_INTEGER_MAP(NAME, BODY)                                             \
    VL_EXPORT void NAME(const BODY<Integers>* body, u64 n0, u64 n1) {          \
        typed(body->x, [&](auto x) { run_map(body->of(x), n0, n1); });         \
    }
#define VL_SUM(NAME, BODY) \
    VL_EXPORT void NAME(const BODY* body, u64 n0, u64 n1) { run_sum(*body, n0, n1); }
#endif
