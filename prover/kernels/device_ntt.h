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

struct NttInverse {  // block i of `size` words
    const u64* from;
    u64* to;
    const u64* tw;  // of the first level done here
    u64 size;
};

struct NttForward {  // index (row·cosets + c)·(ell/size) + block: `size` words of values (rows, cosets, ell) from coefs (rows, ell)
    const u64 *coefs, *rho;  // coefs are ell times too large, at bit-reversed places; rho (rows, blinding)
    u64* values;
    const u64 *tw, *scale, *powers;  // twiddles of the last level done here and, after it, of those before
    u64 ell, cosets, blinding, size, log;
    VL_FN u64 coefficient(u64 row, u64 c, u64 place) const {
        u64 x = coefs[row * ell + place];
        const u64 k = log ? __brevll(place) >> (64 - log) : 0;
        if (k < blinding) {  // rho modulo X^ell - t, times t - 1
            const u64 t = powers[c], *mine = rho + row * blinding;
            u64 sum = 0, at = k + (blinding - 1 - k) / ell * ell;
            for (;; at -= ell) {
                sum = gadd(gmul(sum, t), mine[at]);
                if (at < ell) break;
            }
            x = gadd(x, gmul(sum, gmul(gsub(t, (u64)1), ell)));
        }
        return gmul(x, scale[c * ell + place]);
    }
};

extern "C" __global__ void vl_ntt_inverse(NttInverse body, u64 blocks, u64) {
    __shared__ u64 x[NTT_BLOCK];
    for (u64 i = blockIdx.x; i < blocks; i += gridDim.x) {
        const u64* from = body.from + i * body.size;
        u64* home = body.to + i * body.size;
        for (u64 k = threadIdx.x; k < body.size; k += blockDim.x) x[k] = from[k];
        const u64* tw = body.tw;
        for (u64 size = body.size; size > 1;) {
            const u64 radix = size > 64 ? 8 : 4, q = size / radix;
            __syncthreads();
            for (u64 k = threadIdx.x; k < body.size / radix; k += blockDim.x)
                radix == 8 ? Dif8{x, tw, q}.at<u64>(k / q, k % q) : Dif4{x, tw, q}.at<u64>(k / q, k % q);
            tw += (radix - 1) * q, size = q;
        }
        __syncthreads();
        for (u64 k = threadIdx.x; k < body.size; k += blockDim.x) home[k] = x[k];  // and the same thread loads x[k] again
    }
}

extern "C" __global__ void vl_ntt_forward(NttForward body, u64 blocks, u64) {
    __shared__ u64 x[NTT_BLOCK];
    const u64 size = body.size, parts = body.ell / size;
    for (u64 i = blockIdx.x; i < blocks; i += gridDim.x) {
        const u64 row = i / (parts * body.cosets), c = i / parts % body.cosets, first = i % parts * size;
        for (u64 k = threadIdx.x; k < size; k += blockDim.x) x[k] = body.coefficient(row, c, first + k);
        const u64* tw = body.tw + size - 1;  // a table holds size - 1 twiddles from here on: up from its end
        for (u64 done = 1; done < size;) {
            const u64 radix = done < 64 ? 4 : 8, q = done;
            tw -= (radix - 1) * q;
            __syncthreads();
            for (u64 k = threadIdx.x; k < size / radix; k += blockDim.x)
                radix == 8 ? Dit8{x, tw, q}.at<u64>(k / q, k % q) : Dit4{x, tw, q}.at<u64>(k / q, k % q);
            done *= radix;
        }
        __syncthreads();
        u64* home = body.values + (row * body.cosets + c) * body.ell + first;
        for (u64 k = threadIdx.x; k < size; k += blockDim.x) home[k] = x[k];
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
        const u64 j = index / cosets, c = index % cosets;
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
        out[row * ell * cosets + index] = values[(row * cosets + index % cosets) * ell + index / cosets];
    }
};

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
