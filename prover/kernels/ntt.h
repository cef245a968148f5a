// Number-theoretic transforms for the row code (protocol/code.py): messages to coefficients to codewords.
//
// The inverse transform is decimation in frequency (natural order in, bit-reversed out), the forward one decimation in
// time (bit-reversed in, natural out), so that nothing is ever permuted. A codeword on a coset of the n-th roots is n/ell
// transforms of size ell on cosets s_c·H, s_c = shift·g^c, where p reduces to interp + (t_c - 1)·rho, t_c = s_c^ell.
// i = g^(n/4) is 2^48, a shift. Tables (prover/backend/plan.py): w_16^j, j < 8, for the last levels on 64 words; then for
// each pass of radix R on size s, from the top, w_s^(j·e), j < s/R, for e = 1 | 1 2 3 | 4 2 6 1 5 3 7 (R = 2 | 4 | 8).
#pragma once
#include "field.h"

struct Dif2 {  // block i of size 2h, index j < h: (a + b, (a - b)·w^j)
    u64* x;
    const u64* tw;
    u64 h;
    VL_FN u64 cost() const { return 1; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        u64* p = x + 2 * h * i + j;
        V a = load<V>(p), b = load<V>(p + h);
        store(p, gadd(a, b));
        store(p + h, gmul(subr(a, b), load<V>(tw + j)));
    }
};

struct Dit2 {  // (a + w^j·b, a - w^j·b)
    u64* x;
    const u64* tw;
    u64 h;
    VL_FN u64 cost() const { return 1; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        u64* p = x + 2 * h * i + j;
        V a = load<V>(p), t = gmul(load<V>(p + h), load<V>(tw + j));
        store(p, gadd(a, t));
        store(p + h, gsub(a, t));
    }
};

// Radix-4 butterflies; inputs are "any" residues, and so are results until they are stored. Forward ones in lanes: ntt_wide.h.
template <class V>
VL_FN void dif4_any(V& a, V& b, V& c, V& d, V w1, V w2, V w3) {  // inverse: w^(s/4) = -i
    c = canon(c), d = canon(d);
    V s0 = addr(a, c), s1 = subr(a, c), s2 = canon(addr(b, d)), s3 = canon(shiftr<48>(subr(b, d)));
    a = addr(s0, s2);
    b = mulr(subr(s0, s2), w2);
    c = mulr(subr(s1, s3), w1);
    d = mulr(addr(s1, s3), w3);
}
template <class V>
VL_FN void dit4_any(V& a, V& b, V& c, V& d) {  // forward: w^(s/4) = i; b and d canonical
    V s0 = addr(a, b), s1 = subr(a, b), s2 = canon(addr(c, d)), s3 = canon(shiftr<48>(subr(c, d)));
    a = addr(s0, s2);
    c = subr(s0, s2);
    b = addr(s1, s3);
    d = subr(s1, s3);
}
template <class V>
VL_FN void dit4_any(V& a, V& b, V& c, V& d, V w1, V w2, V w3) {  // with twiddles
    b = canon(mulr(b, w2)), c = mulr(c, w1), d = canon(mulr(d, w3));
    dit4_any(a, b, c, d);
}
template <class V>
VL_FN void dif4(V& a, V& b, V& c, V& d, V w1, V w2, V w3) {  // canonical out
    dif4_any(a, b, c, d, w1, w2, w3);
    a = canon(a), b = canon(b), c = canon(c), d = canon(d);
}
template <class V>
VL_FN void dit4(V& a, V& b, V& c, V& d, V w1, V w2, V w3) {  // canonical out
    dit4_any(a, b, c, d, w1, w2, w3);
    a = canon(a), b = canon(b), c = canon(c), d = canon(d);
}

// a, b to a + b, a - b; b canonical
template <class V>
VL_FN void sum_difference(V& a, V& b) {
    V s = addr(a, b);
    b = subr(a, b);
    a = s;
}

// Transforms of 8 values without twiddles: the 8th root is w = 2^120 = -2^24, so they take shifts only.
template <class V>
VL_FN void dif8(V* r) {  // inverse, natural in (any), bit-reversed out (any)
    for (int k = 4; k < 8; ++k) r[k] = canon(r[k]);
    for (int k = 0; k < 4; ++k) sum_difference(r[k], r[k + 4]);
    // w^-1 = 2^72, w^-2 = -2^48, w^-3 = 2^24; a minus sign is a swap in the next level
    r[5] = shiftr<24>(shiftr<48>(r[5]));
    r[6] = shiftr<48>(r[6]);
    r[7] = shiftr<24>(r[7]);
    for (int k = 2; k < 8; ++k) r[k] = canon(r[k]);
    sum_difference(r[0], r[2]);
    sum_difference(r[1], r[3]);
    V a = r[4], b = r[5];
    r[4] = subr(a, r[6]), r[6] = addr(a, r[6]);
    r[5] = addr(b, r[7]), r[7] = subr(b, r[7]);
    r[3] = shiftr<48>(r[3]), r[7] = shiftr<48>(r[7]);  // w^-2 again
    for (int k = 1; k < 8; k += 2) r[k] = canon(r[k]);
    sum_difference(r[0], r[1]);
    sum_difference(r[4], r[5]);
    a = r[2], b = r[6];
    r[2] = subr(a, r[3]), r[3] = addr(a, r[3]);
    r[6] = subr(b, r[7]), r[7] = addr(b, r[7]);
}
template <class V>
VL_FN void dit8(V* r) {  // forward, bit-reversed in (odd places canonical, others any), natural out (any)
    for (int k = 0; k < 8; k += 2) sum_difference(r[k], r[k + 1]);
    r[3] = shiftr<48>(r[3]), r[7] = shiftr<48>(r[7]);
    for (int k = 0; k < 8; k += 4) {
        r[k + 2] = canon(r[k + 2]), r[k + 3] = canon(r[k + 3]);
        sum_difference(r[k], r[k + 2]);
        sum_difference(r[k + 1], r[k + 3]);
    }
    // w = -2^24, w^2 = 2^48, w^3 = -2^72
    r[5] = shiftr<24>(r[5]);
    r[6] = shiftr<48>(r[6]);
    r[7] = shiftr<24>(shiftr<48>(r[7]));
    for (int k = 4; k < 8; ++k) r[k] = canon(r[k]);
    sum_difference(r[0], r[4]);
    sum_difference(r[2], r[6]);
    V a = r[1], b = r[3];
    r[1] = subr(a, r[5]), r[5] = addr(a, r[5]);
    r[3] = subr(b, r[7]), r[7] = addr(b, r[7]);
}

template <class V>
VL_FN void dif8_any(V* r, const V* w) {  // with twiddles
    dif8(r);
    for (int k = 1; k < 8; ++k) r[k] = mulr(r[k], w[k - 1]);
}
template <class V>
VL_FN void dit8_any(V* r, const V* w) {  // with twiddles
    for (int k = 1; k < 8; ++k) {
        r[k] = mulr(r[k], w[k - 1]);
        if (k % 2) r[k] = canon(r[k]);
    }
    dit8(r);
}
template <class V>
VL_FN void dif8(V* r, const V* w) {  // canonical out
    dif8_any(r, w);
    for (int k = 0; k < 8; ++k) r[k] = canon(r[k]);
}
template <class V>
VL_FN void dit8(V* r, const V* w) {  // canonical out
    dit8_any(r, w);
    for (int k = 0; k < 8; ++k) r[k] = canon(r[k]);
}

struct Dif8 {  // block i of size 8q, index j < q
    u64* x;
    const u64* tw;
    u64 q;
    VL_FN u64 cost() const { return 8; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        u64* p = x + 8 * q * i + j;
        V r[8], w[7];
        for (int k = 0; k < 8; ++k) r[k] = load<V>(p + k * q);
        for (int k = 0; k < 7; ++k) w[k] = load<V>(tw + k * q + j);
        dif8(r, w);
        for (int k = 0; k < 8; ++k) store(p + k * q, r[k]);
    }
};
struct Dit8 {
    u64* x;
    const u64* tw;
    u64 q;
    VL_FN u64 cost() const { return 8; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        u64* p = x + 8 * q * i + j;
        V r[8], w[7];
        for (int k = 0; k < 8; ++k) r[k] = load<V>(p + k * q);
        for (int k = 0; k < 7; ++k) w[k] = load<V>(tw + k * q + j);
        dit8(r, w);
        for (int k = 0; k < 8; ++k) store(p + k * q, r[k]);
    }
};

struct Dif4 {
    u64* x;
    const u64* tw;
    u64 q;
    VL_FN u64 cost() const { return 4; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        u64* p = x + 4 * q * i + j;
        V a = load<V>(p), b = load<V>(p + q), c = load<V>(p + 2 * q), d = load<V>(p + 3 * q);
        dif4(a, b, c, d, load<V>(tw + j), load<V>(tw + q + j), load<V>(tw + 2 * q + j));
        store(p, a), store(p + q, b), store(p + 2 * q, c), store(p + 3 * q, d);
    }
};
struct Dit4 {
    u64* x;
    const u64* tw;
    u64 q;
    VL_FN u64 cost() const { return 4; }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        u64* p = x + 4 * q * i + j;
        V a = load<V>(p), b = load<V>(p + q), c = load<V>(p + 2 * q), d = load<V>(p + 3 * q);
        dit4(a, b, c, d, load<V>(tw + j), load<V>(tw + q + j), load<V>(tw + 2 * q + j));
        store(p, a), store(p + q, b), store(p + 2 * q, c), store(p + 3 * q, d);
    }
};

#ifndef VL_CUDA

template <class Body>
static VL_FN void pass(const Body& body, u64 count) {
    u64 j = 0;
#ifdef VL_WIDE
    for (; j + Lanes<VL_WIDE>::count <= count; j += Lanes<VL_WIDE>::count) body.template at<VL_WIDE>(0, j);
#endif
    for (; j < count; ++j) body.template at<u64>(0, j);
}

#ifdef VL_WIDE
#include "ntt_wide.h"
#endif
#ifdef VL_512
#define VL_BASE 64
#include "ntt64.h"
#elif defined(VL_WIDE)
#define VL_BASE 16
#include "ntt16.h"
#else
#define VL_BASE 1
static VL_FN void dif_base(u64*, const u64*, const u64*) {}
template <bool>
static VL_FN void dit_base(u64*, const u64*, const u64*, const u64*, const u64*) {}
#endif

// Depth first, so that blocks which fit a cache stay there. `top` is the start of the whole table. Sizes are 64·8^k, or
// powers of 4 below.
static void dif(u64* x, u64 size, const u64* tw, const u64* top) {
    if (size == VL_BASE && VL_BASE > 1) return dif_base(x, tw, top);
    if (size == 1) return;
    const u64 radix = size > 64 ? 8 : 4, q = size / radix;
    radix == 8 ? pass(Dif8{x, tw, q}, q) : pass(Dif4{x, tw, q}, q);
    for (u64 k = 0; k < radix; ++k) dif(x + k * q, q, tw + (radix - 1) * q, top);
}
// SCALED: `from` times `scale` is transformed, word by word, else what lies at x.
template <bool SCALED>
static void dit(u64* x, u64 size, const u64* tw, const u64* top, const u64* from, const u64* scale) {
    if (size == VL_BASE && VL_BASE > 1) return dit_base<SCALED>(x, tw, top, from, scale);
    if (size == 1) {
        if (SCALED) *x = gmul(*from, *scale);
        return;
    }
    const u64 radix = size > 64 ? 8 : 4, q = size / radix;
    for (u64 k = 0; k < radix; ++k) dit<SCALED>(x + k * q, q, tw + (radix - 1) * q, top, from + k * q, scale + k * q);
    radix == 8 ? pass(Dit8{x, tw, q}, q) : pass(Dit4{x, tw, q}, q);
}

// The first pass brings a size to 64·8^k (or a power of 4 below 64).
static u64 first_radix(u64 size) {
    const unsigned log = (unsigned)__builtin_ctzll(size);
    return log < 6 ? 1u << (log & 1) : 1u << (log % 3);
}

static void inverse_transform(u64* x, u64 ell, const u64* table) {  // scaled by ell
    const u64 radix = first_radix(ell), q = ell / radix;
    const u64* tw = table + 8;
    if (radix == 2) pass(Dif2{x, tw, q}, q);
    if (radix == 4) pass(Dif4{x, tw, q}, q);
    for (u64 k = 0; k < radix; ++k) dif(x + k * q, q, tw + (radix - 1) * q, table);
}
template <bool SCALED>
static void forward_blocks(u64* x, u64 ell, const u64* table, const u64* from, const u64* scale) {  // a transform but for its last pass
    const u64 radix = first_radix(ell), q = ell / radix;
    const u64* tw = table + 8;
    for (u64 k = 0; k < radix; ++k) dit<SCALED>(x + k * q, q, tw + (radix - 1) * q, table, from + k * q, scale + k * q);
}
static void last_pass(u64* x, u64 ell, const u64* table) {
    const u64 radix = first_radix(ell), q = ell / radix;
    const u64* tw = table + 8;
    if (radix == 2) pass(Dit2{x, tw, q}, q);
    if (radix == 4) pass(Dit4{x, tw, q}, q);
}

struct Transform {  // rows of ell words, in place
    u64* x;
    const u64* table;
    u64 ell, inverse;
};

VL_EXPORT void vl_transform(const Transform* given, u64 rows, u64) {
    const Transform t = *given;
    parallel(rows, rows * t.ell * 4, [&](unsigned, u64 lo, u64 hi) {
        for (u64 row = lo; row < hi; ++row)
            if (t.inverse) {
                inverse_transform(t.x + row * t.ell, t.ell, t.table);
            } else {
                u64* x = t.x + row * t.ell;
                forward_blocks<false>(x, t.ell, t.table, x, x);
                last_pass(x, t.ell, t.table);
            }
    });
}

#include "encode.h"
#ifdef VL_WIDE
#include "cosets.h"
#endif
#endif
