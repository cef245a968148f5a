// Encoding rows on a GPU (protocol/code.py): the passes of ntt.h, the same bodies, in as few trips to memory as possible.
//
// A pass over all rows is one launch (blocks of one row follow those of the row before). The first pass reads messages and the last
// interleaves the cosets as it stores; both do a pass of radix 2 or 4 and one of radix 8 while the words are at hand. Once a transform's
// blocks have at most NTT_BLOCK words, a thread block does all remaining levels of one in shared memory: `vl_ntt_inverse` ends the
// inverse transforms, `vl_ntt_forward` begins the forward ones of every coset, reducing and scaling coefficients as it loads them. So a
// row of 2^13 to 2^17 words takes two trips to memory each way, one of up to 2^20 three. Tables are those of prover/backend/plan.py.
#pragma once
#include "ntt.h"

enum { NTT_BLOCK = 4096 };  // 64·8^k as the plan cuts sizes, and 32 KB of shared memory

VL_FN u32 log_of(u64 power) { return 63 - __clzll((i64)power); }  // of two: divisions by it are shifts

// Where word k of a block lies in shared memory, of which 16 words with different low bits can be had at once: a pass takes words that are
// 1, 4, 16 or at least 64 apart, and threads side by side take neighbours of each.
VL_FN u32 shared_place(u32 k) { return k ^ 5 * (k >> 4 & 3); }

template <int LOG_RADIX, class Butterfly>
VL_FN void block_pass(u64* x, u32 size, u32 log_q, const u64* tw, const Butterfly& butterfly) {
    enum { RADIX = 1 << LOG_RADIX };
    for (u32 k = threadIdx.x; k < size >> LOG_RADIX; k += blockDim.x) {
        const u32 j = k & ((1u << log_q) - 1), first = k >> log_q << (log_q + LOG_RADIX) | j;
        u32 at[RADIX];
        u64 r[RADIX], w[RADIX];
        at[0] = shared_place(first);
        for (u32 t = 1; t < RADIX; ++t) at[t] = RADIX == 8 ? at[0] + (t << log_q) : shared_place(first + (t << log_q));  // 8: q >= 64
        for (u32 t = 0; t < RADIX; ++t) r[t] = x[at[t]];
        for (u32 t = 1; t < RADIX; ++t) w[t - 1] = tw[((t - 1) << log_q) + j];
        butterfly(r, w);
        for (u32 t = 0; t < RADIX; ++t) x[at[t]] = r[t];
    }
    __syncthreads();
}

struct NttInverse {  // block i of `size` words, to any residues
    const u64* from;
    u64* to;
    const u64* tw;  // of the first level done here
    u64 size;
};

struct NttForward {  // index (row·cosets + c)·(ell/size) + block: `size` words of values (rows, cosets, ell) from coefs (rows, ell)
    const u64 *coefs, *rho;  // coefs are any residues, ell times too large, at bit-reversed places; rho (rows, blinding)
    u64* values;
    const u64 *tw, *scale, *powers;  // twiddles of the last level done here and, after it, of those before
    u64 ell, cosets, blinding, size, log;
    VL_FN u64 blinded(u64 x, u64 row, u64 c, u64 k) const {  // plus rho modulo X^ell - t, times t - 1
        const u64 t = powers[c], *mine = rho + row * blinding;
        u64 sum = 0, at = k + (blinding - 1 - k) / ell * ell;
        for (;; at -= ell) {
            sum = gadd(gmul(sum, t), mine[at]);
            if (at < ell) break;
        }
        return gadd(x, gmul(sum, gmul(gsub(t, (u64)1), ell)));
    }
};

extern "C" __global__ void vl_ntt_inverse(NttInverse body, u64 blocks, u64) {
    __shared__ u64 x[NTT_BLOCK];
    const u32 size = (u32)body.size;
    for (u64 i = blockIdx.x; i < blocks; i += gridDim.x) {
        const u64* from = body.from + i * size;
        u64* home = body.to + i * size;
        for (u32 k = threadIdx.x; k < size; k += blockDim.x) x[shared_place(k)] = from[k];
        __syncthreads();
        const u64* tw = body.tw;
        u32 log = log_of(size);
        for (; log > 6; tw += 7ull << log) {
            log -= 3;
            block_pass<3>(x, size, log, tw, [](u64* r, const u64* w) { dif8_any(r, w); });
        }
        for (; log; tw += 3ull << log) {
            log -= 2;
            block_pass<2>(x, size, log, tw, [](u64* r, const u64* w) { dif4_any(r[0], r[1], r[2], r[3], w[0], w[1], w[2]); });
        }
        for (u32 k = threadIdx.x; k < size; k += blockDim.x) home[k] = x[shared_place(k)];  // and the same thread writes there next
    }
}

extern "C" __global__ void vl_ntt_forward(NttForward body, u64 blocks, u64) {
    __shared__ u64 x[NTT_BLOCK];
    const u32 size = (u32)body.size, log_size = log_of(size), log_parts = log_of(body.ell) - log_size, log_cosets = log_of(body.cosets);
    for (u64 i = blockIdx.x; i < blocks; i += gridDim.x) {
        const u64 row = i >> (log_parts + log_cosets), c = i >> log_parts & (body.cosets - 1), first = (i & ((1ull << log_parts) - 1)) << log_size;
        const u64 *coefs = body.coefs + row * body.ell + first, *scale = body.scale + c * body.ell + first;
        for (u32 k = threadIdx.x; k < size; k += blockDim.x) {
            const u64 power = body.log ? __brevll(first + k) >> (64 - body.log) : 0;
            const u64 coefficient = power < body.blinding ? body.blinded(canon(coefs[k]), row, c, power) : coefs[k];
            x[shared_place(k)] = gmul(coefficient, scale[k]);
        }
        __syncthreads();
        const u64* tw = body.tw + size - 1;  // a table holds size - 1 twiddles from here on: up from its end
        u32 log = 0;
        if (log_size) {  // the first twiddles are 1
            tw -= 3, log = 2;
            block_pass<2>(x, size, 0, tw, [](u64* r, const u64*) { dit4_any(r[0], r[1], r[2], r[3]); });
        }
        for (; log < log_size && log < 6; log += 2) {
            tw -= 3ull << log;
            block_pass<2>(x, size, log, tw, [](u64* r, const u64* w) { dit4_any(r[0], r[1], r[2], r[3], w[0], w[1], w[2]); });
        }
        for (; log < log_size; log += 3) {
            tw -= 7ull << log;
            block_pass<3>(x, size, log, tw, [](u64* r, const u64* w) { dit8_any(r, w); });
        }
        u64* home = body.values + (row * body.cosets + c) * body.ell + first;
        for (u32 k = threadIdx.x; k < size; k += blockDim.x) home[k] = canon(x[shared_place(k)]);
    }
}

// A pass of radix A and one of radix B (1: none) below it, on the words (a·B + b)·q + j of a block of A·B·q: x[a·B + b] here. The second's
// table follows the first's.
struct NoPass {
    u64* x;
    const u64* tw;
    u64 q;
    template <class V>
    VL_FN void at(u64, u64) const {}
};
template <int A, int B, class First, class Second>
struct Passes {
    static VL_FN void first(u64* x, const u64* tw, u64 q, u64 j) {
        for (int b = 0; b < B; ++b) {
            u64 y[A], w[A];
            for (int a = 0; a < A; ++a) y[a] = x[a * B + b];
            for (int a = 1; a < A; ++a) w[a - 1] = tw[((a - 1) * B + b) * q + j];
            First{y, w, 1}.template at<u64>(0, 0);
            for (int a = 0; a < A; ++a) x[a * B + b] = y[a];
        }
    }
    static VL_FN void second(u64* x, const u64* tw, u64 q, u64 j) {
        u64 w[B];
        for (int b = 1; b < B; ++b) w[b - 1] = tw[((A - 1) * B + b - 1) * q + j];
        for (int a = 0; a < A; ++a) Second{x + a * B, w, 1}.template at<u64>(0, 0);
    }
};

template <int A, int B, class First, class Second>
struct NttFirst {  // index (row, j < q): rows of A·B·q words
    const u64* from;
    u64* to;
    const u64* tw;
    u64 q;
    template <class V>
    VL_FN void at(u64 row, u64 j) const {
        const u64 place = row * A * B * q + j;
        u64 x[A * B];
        for (int k = 0; k < A * B; ++k) x[k] = from[place + k * q];
        Passes<A, B, First, Second>::first(x, tw, q, j);
        Passes<A, B, First, Second>::second(x, tw, q, j);
        for (int k = 0; k < A * B; ++k) to[place + k * q] = x[k];
    }
};

// The last pass: index (row, j·cosets + c) with j < q: values (rows, cosets, A·B·q) to out (rows, A·B·q, cosets).
template <int A, int B, class First, class Second>
struct NttLast {
    const u64* values;
    u64* out;
    const u64* tw;
    u64 q, cosets;
    template <class V>
    VL_FN void at(u64 row, u64 index) const {
        const u64 j = index >> log_of(cosets), c = index & (cosets - 1);
        const u64* from = values + (row * cosets + c) * A * B * q + j;
        u64 x[A * B];
        for (int k = 0; k < A * B; ++k) x[k] = from[k * q];
        Passes<A, B, First, Second>::second(x, tw, q, j);
        Passes<A, B, First, Second>::first(x, tw, q, j);
        u64* to = out + (row * A * B * q + j) * cosets + c;
        for (int k = 0; k < A * B; ++k) to[k * q * cosets] = x[k];
    }
};

struct Interleave {  // where no pass is left: index (row, j·cosets + c)
    const u64* values;
    u64* out;
    u64 ell, cosets;
    template <class V>
    VL_FN void at(u64 row, u64 index) const {
        out[row * ell * cosets + index] = values[(row * cosets + (index & (cosets - 1))) * ell + (index >> log_of(cosets))];
    }
};

// Index (row, k): word j·cosets + c of a codeword, the k-th position, from transforms that ended at blocks of `size` words: block b has the
// coefficients whose numbers are b', its bits reversed, modulo ell/size, so the word is the sum over b of w^(b'·j) times word j mod size.
struct Columns {
    const u64* values;  // (rows, cosets, ell)
    u64* out;           // (rows, n1)
    const u64 *roots, *positions;  // w^i
    u64 ell, cosets, size, count;
    template <class V>
    VL_FN void at(u64 row, u64 k) const {
        const u64 j = positions[k] >> log_of(cosets), c = positions[k] & (cosets - 1), blocks = ell >> log_of(size);
        const u64* mine = values + (row * cosets + c) * ell + (j & (size - 1));
        const u32 unused = 64 - log_of(blocks);
        Acc<u64> sum;
        sum.clear();
        u64 power = 0;
        for (u64 b = 0; b < blocks; ++b, power = (power + j) & (ell - 1))
            sum.mac(mine[(b ? __brevll(b) >> unused : 0) * size], roots[power]);
        out[row * count + k] = sum.value();
    }
};
VL_MAP(vl_columns, Columns)

typedef NttFirst<2, 1, Dif2, NoPass> NttFirst2;
typedef NttFirst<4, 1, Dif4, NoPass> NttFirst4;
typedef NttFirst<8, 1, Dif8, NoPass> NttFirst8;
typedef NttFirst<2, 8, Dif2, Dif8> NttFirst16;
typedef NttFirst<4, 8, Dif4, Dif8> NttFirst32;
typedef NttLast<2, 1, Dit2, NoPass> NttLast2;
typedef NttLast<4, 1, Dit4, NoPass> NttLast4;
typedef NttLast<8, 1, Dit8, NoPass> NttLast8;
typedef NttLast<2, 8, Dit2, Dit8> NttLast16;
typedef NttLast<4, 8, Dit4, Dit8> NttLast32;
VL_MAP(vl_ntt_first2, NttFirst2)
VL_MAP(vl_ntt_first4, NttFirst4)
VL_MAP(vl_ntt_first8, NttFirst8)
VL_MAP(vl_ntt_first16, NttFirst16)
VL_MAP(vl_ntt_first32, NttFirst32)
VL_MAP(vl_ntt_last2, NttLast2)
VL_MAP(vl_ntt_last4, NttLast4)
VL_MAP(vl_ntt_last8, NttLast8)
VL_MAP(vl_ntt_last16, NttLast16)
VL_MAP(vl_ntt_last32, NttLast32)
VL_MAP(vl_dif8, Dif8)
VL_MAP(vl_dit8, Dit8)
VL_MAP(vl_interleave, Interleave)
