// Goldilocks p = 2^64 - 2^32 + 1 and K = F[X]/(X^2 - 7), one lane at a time; the definitions that every kernel body uses.
//
// Templates take a lane type V: u64 (here) or a vector of u64 (simd512.h, simd256.h). Conventions for V:
//   canonical < p: what memory holds.  "any": a residue below 2^64, not reduced.
//   mulr(any, any) -> any, addr(any, canonical) -> any, subr(any, canonical) -> any, canon(any) -> canonical.
// Sums are gathered unreduced (Acc: 128 bits and a carry limb) and reduced once.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define VL_CUDA 1
#define VL_FN __device__ __forceinline__
#else
#define VL_FN inline __attribute__((always_inline))
#define VL_APART __attribute__((noinline))  // loops that compile better by themselves
#endif

typedef unsigned long long u64;  // the type behind NumPy's uint64 on every platform; uint64_t differs on Linux
typedef long long i64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef int i32;
typedef short i16;
typedef signed char i8;

#define GL_P 0xFFFFFFFF00000001ULL
#define GL_EPS 0xFFFFFFFFULL  // 2^64 mod p

// ---- one lane ---------------------------------------------------------------------------------------------------

template <class V>
struct Lanes {
    enum { count = 1 };
};

template <class V>
VL_FN V load(const u64* at);
template <>
VL_FN u64 load<u64>(const u64* at) {
    return *at;
}
VL_FN void store(u64* at, u64 x) { *at = x; }
VL_FN void store_past(u64* at, u64 x) { *at = x; }  // vectors: past the caches, to an aligned address

template <class V>
VL_FN V spread(u64 x);  // the same value in every lane
template <>
VL_FN u64 spread<u64>(u64 x) {
    return x;
}

#define VL_INTEGERS(DO) DO(i8) DO(u8) DO(i16) DO(u16) DO(i32) DO(u32) DO(i64)
#define VL_LOAD_INT(T)                   \
    template <class V>                   \
    VL_FN V load_int(const T* at);       \
    template <>                          \
    VL_FN u64 load_int<u64>(const T* at) { \
        return (u64)(i64)*at;            \
    }
VL_INTEGERS(VL_LOAD_INT)  // an integer of any width, with its sign extended to 64 bits
VL_FN u64 canonical_int(u64 x) { return x + ((u64)((i64)x >> 63) & GL_P); }  // of such an integer

// Carries are random bits, so they become masks: a mispredicted branch costs more than a multiplication.
VL_FN u64 eps_if(bool carry) { return (0 - (u64)carry) & GL_EPS; }

VL_FN u64 canon(u64 x) {  // x - p = x + 2^32 - 1 modulo 2^64
    return x + eps_if(x >= GL_P);
}

#ifdef VL_CUDA
// A GPU computes in words of 32 bits, with a carry from one to the next: comparing two words of 64 costs as much as adding them, so
// carries are taken where they arise.
VL_FN u64 joined(u32 low, u32 high) { return (u64)high << 32 | low; }

VL_FN u64 addr(u64 a, u64 b) {
    u64 s;
    u32 carry;
    asm("add.cc.u64 %0, %2, %3; addc.u32 %1, 0, 0;" : "=l"(s), "=r"(carry) : "l"(a), "l"(b));
    return s + (0u - carry);
}

VL_FN u64 subr(u64 a, u64 b) {
    u64 d;
    u32 mask;  // 2^32 - 1 after a borrow
    asm("sub.cc.u64 %0, %2, %3; subc.u32 %1, 0, 0;" : "=l"(d), "=r"(mask) : "l"(a), "l"(b));
    return d - mask;
}

VL_FN void mul_wide(u64 a, u64 b, u64& lo, u64& hi) { lo = a * b, hi = __umul64hi(a, b); }

// over·2^128 + hi·2^64 + lo to any, over < 2^31: 2^64 = 2^32 - 1, 2^96 = -1, 2^128 = -2^32, so lo + (low - over)·2^32 - low - top.
VL_FN u64 reduce_wide(u64 lo, u64 hi, u32 over = 0) {
    const u32 low = (u32)hi, top = (u32)(hi >> 32);
    const i64 first = (i64)(u32)lo - (i64)(u64)low - (i64)(u64)top;
    const i64 second = (i64)(lo >> 32) + (i64)(u64)low - (i64)(u64)over + (first >> 32);
    const int carry = (int)(second >> 32);  // -1, 0 or 1, times 2^32 - 1
    return joined((u32)first, (u32)second) + joined((u32)-carry, (u32)(carry >> 31));
}

VL_FN u64 mul7(u64 a) {
    const u64 first = (a & GL_EPS) * 7, second = (a >> 32) * 7 + (first >> 32);
    return reduce_wide(joined((u32)first, (u32)second), second >> 32);
}
#else
VL_FN u64 addr(u64 a, u64 b) {
    u64 s = a + b;
    return s + eps_if(s < b);
}

VL_FN u64 subr(u64 a, u64 b) {
    u64 d = a - b;
    return d - eps_if(a < b);
}

VL_FN void mul_wide(u64 a, u64 b, u64& lo, u64& hi) {
    unsigned __int128 t = (unsigned __int128)a * b;
    lo = (u64)t;
    hi = (u64)(t >> 64);
}

VL_FN u64 reduce_wide(u64 lo, u64 hi) {  // hi·2^64 + lo to any
    u64 top = hi >> 32, low = hi & GL_EPS;
    u64 t = lo - top;
    t -= eps_if(lo < top);
    u64 u = (low << 32) - low;
    u64 r = t + u;
    return r + eps_if(r < u);
}
#endif

VL_FN u64 mulr(u64 a, u64 b) {
    u64 lo, hi;
    mul_wide(a, b, lo, hi);
    return reduce_wide(lo, hi);
}

#ifndef VL_CUDA
VL_FN u64 mul7(u64 a) { return mulr(a, 7); }
#endif

template <int S>
VL_FN u64 shiftr(u64 a) {  // a·2^S, 0 < S < 64
    return reduce_wide(a << S, a >> (64 - S));
}

// ---- canonical arithmetic over any lane type --------------------------------------------------------------------

template <class V>
VL_FN V gadd(V a, V b) {
#ifdef VL_CUDA
    return subr(a, GL_P - b);
#else
    return canon(addr(a, b));
#endif
}
template <class V>
VL_FN V gsub(V a, V b) {
    return subr(a, b);
}
template <class V>
VL_FN V gmul(V a, V b) {
    return canon(mulr(a, b));
}

template <class V>
struct K {
    V a, b;
};

template <class V>
VL_FN K<V> kload(const u64* p0, const u64* p1, u64 i) {
    return K<V>{load<V>(p0 + i), load<V>(p1 + i)};
}
template <class V>
VL_FN K<V> kspread(u64 c0, u64 c1) {
    return K<V>{spread<V>(c0), spread<V>(c1)};
}
template <class V>
VL_FN void kstore(u64* p0, u64* p1, u64 i, K<V> x) {
    store(p0 + i, x.a);
    store(p1 + i, x.b);
}
template <class V>
VL_FN void kstore_past(u64* p0, u64* p1, u64 i, K<V> x) {
    store_past(p0 + i, x.a);
    store_past(p1 + i, x.b);
}
template <class V>
VL_FN K<V> kadd(K<V> x, K<V> y) {
    return K<V>{gadd(x.a, y.a), gadd(x.b, y.b)};
}
template <class V>
VL_FN K<V> ksub(K<V> x, K<V> y) {
    return K<V>{gsub(x.a, y.a), gsub(x.b, y.b)};
}

template <class V>
VL_FN K<V> kmul(K<V> x, K<V> y) {  // Karatsuba; operands loose (plane a any, plane b canonical; on CPUs any), result canonical
    V low = canon(mulr(x.a, y.a)), high = canon(mulr(x.b, y.b));
    V cross = mulr(addr(x.a, x.b), addr(y.a, y.b));
    return K<V>{canon(addr(mul7(high), low)), canon(subr(subr(cross, low), high))};
}

// x·y + z·w; every operand may be loose: plane a any, plane b canonical
template <class V>
VL_FN K<V> kmul_add(K<V> x, K<V> y, K<V> z, K<V> w) {
    V low = canon(addr(mulr(x.a, y.a), canon(mulr(z.a, w.a))));
    V high = canon(addr(mulr(x.b, y.b), canon(mulr(z.b, w.b))));
    V cross = addr(mulr(addr(x.a, x.b), addr(y.a, y.b)), canon(mulr(addr(z.a, z.b), addr(w.a, w.b))));
    return K<V>{canon(addr(mul7(high), low)), canon(subr(subr(cross, low), high))};
}

template <class V>
VL_FN K<V> kmulf(K<V> x, V f) {
    return K<V>{gmul(x.a, f), gmul(x.b, f)};
}

// ---- sums of products -------------------------------------------------------------------------------------------

template <class V>
struct Acc;

#ifdef VL_CUDA
// In words of 32 bits, products of like halves apart from those of unlike ones, which belong one word higher: so every multiplication adds
// to 64 bits in one instruction and hands its carry on. The results of an asm are written before its last operand is read, hence the &.
template <>
struct Acc<u64> {
    u32 e0, e1, e2, e3, e4, o0, o1, o2;
    VL_FN void clear(u64 start = 0) {
        e0 = (u32)start, e1 = (u32)(start >> 32);
        e2 = e3 = e4 = o0 = o1 = o2 = 0;
    }
    VL_FN void mac(u64 a, u64 b) {
        const u32 a0 = (u32)a, a1 = (u32)(a >> 32), b0 = (u32)b, b1 = (u32)(b >> 32);
        asm("mad.lo.cc.u32 %0, %5, %7, %0; madc.hi.cc.u32 %1, %5, %7, %1; madc.lo.cc.u32 %2, %6, %8, %2; madc.hi.cc.u32 %3, %6, %8, %3;"
            "addc.u32 %4, %4, 0;" : "+&r"(e0), "+&r"(e1), "+&r"(e2), "+&r"(e3), "+&r"(e4) : "r"(a0), "r"(a1), "r"(b0), "r"(b1));
        asm("mad.lo.cc.u32 %0, %3, %6, %0; madc.hi.cc.u32 %1, %3, %6, %1; addc.u32 %2, %2, 0;"
            "mad.lo.cc.u32 %0, %4, %5, %0; madc.hi.cc.u32 %1, %4, %5, %1; addc.u32 %2, %2, 0;"
            : "+&r"(o0), "+&r"(o1), "+&r"(o2) : "r"(a0), "r"(a1), "r"(b0), "r"(b1));
    }
    VL_FN u64 residue() const {  // any; of fewer than 2^30 terms
        u32 x1 = e1, x2 = e2, x3 = e3, x4 = e4;
        asm("add.cc.u32 %0, %0, %4; addc.cc.u32 %1, %1, %5; addc.cc.u32 %2, %2, %6; addc.u32 %3, %3, 0;"
            : "+&r"(x1), "+&r"(x2), "+&r"(x3), "+&r"(x4) : "r"(o0), "r"(o1), "r"(o2));
        return reduce_wide(joined(e0, x1), joined(x2, x3), x4);
    }
    VL_FN u64 value() const { return canon(residue()); }
};
#else
template <>
struct Acc<u64> {
    u64 l, m, h;  // h·2^128 + m·2^64 + l
    VL_FN void clear() { l = m = h = 0; }
    VL_FN void mac(u64 a, u64 b) {
        u64 lo, hi;
        mul_wide(a, b, lo, hi);
        unsigned __int128 s = ((unsigned __int128)m << 64) | l, t = ((unsigned __int128)hi << 64) | lo;
        h += __builtin_add_overflow(s, t, &s);
        l = (u64)s;
        m = (u64)(s >> 64);
    }
    VL_FN u64 value() const {  // 2^128 = -2^32
        return canon(subr(reduce_wide(l, m), canon(reduce_wide(h << 32, h >> 32))));
    }
};
#endif

// Σ x·y over K: products of K by K in low, high, cross; products of K by F in f0, f1. Unused members vanish.
template <class V>
struct KAcc {
    Acc<V> low, high, cross, f0, f1;
    VL_FN void clear() {
        low.clear();
        high.clear();
        cross.clear();
        f0.clear();
        f1.clear();
    }
    VL_FN void macf(K<V> x, V f) {
        f0.mac(x.a, f);
        f1.mac(x.b, f);
    }
    VL_FN void mac(K<V> x, K<V> y);
};

#ifdef VL_CUDA
template <>
struct KAcc<u64> {  // products of K by K and by F in the same places; where there are only the latter, `high` is never reduced
    Acc<u64> f0, f1, high;
    bool squares;
    VL_FN void clear() {
        f0.clear(), f1.clear(), high.clear();
        squares = false;
    }
    VL_FN void macf(K<u64> x, u64 f) {
        f0.mac(x.a, f);
        f1.mac(x.b, f);
    }
    VL_FN void mac(K<u64> x, K<u64> y) {
        f0.mac(x.a, y.a);
        f1.mac(x.a, y.b);
        f1.mac(x.b, y.a);
        high.mac(x.b, y.b);
        squares = true;
    }
};
#else
template <>
VL_FN void KAcc<u64>::mac(K<u64> x, K<u64> y) {  // four multiplications: cheaper than Karatsuba's sums
    low.mac(x.a, y.a);
    high.mac(x.b, y.b);
    f1.mac(x.a, y.b);
    f1.mac(x.b, y.a);
}
#endif

template <class V>
struct KScale {  // multiplication by one element of K; x and c may be loose, the result is canonical
    K<V> r;
    VL_FN explicit KScale(K<u64> x) : r(kspread<V>(x.a, x.b)) {}
    VL_FN K<V> times_plus(K<V> x, K<V> c) const { return kadd(c, kmul(x, r)); }  // r·x + c
};

template <class V>
struct KLinear {  // c + Σ x·f for scalars x of K and f of F in each lane, up to 2^7 terms
    KAcc<V> sum;
    K<V> start;
    VL_FN explicit KLinear(K<u64> c) : start(kspread<V>(c.a, c.b)) { sum.clear(); }
    VL_FN void mac(K<u64> x, V f) { sum.macf(kspread<V>(x.a, x.b), f); }
    VL_FN K<V> value() const { return kadd(kvalue(sum), start); }
};

template <class V>
struct KSum;  // Σ x·y over K of up to TERMS terms, ended by one value, or by one for each lane

#ifdef VL_CUDA
VL_FN K<u64> kvalue(const KAcc<u64>& s) {
    Acc<u64> first = s.f0;
    if (s.squares) first.mac(s.high.residue(), 7);
    return K<u64>{first.value(), s.f1.value()};
}

// A product of one term is a sum of products too: four multiplications of 6 instructions and two reductions, where Karatsuba's three take
// three reductions and four sums.
template <>
VL_FN K<u64> kmul<u64>(K<u64> x, K<u64> y) {
    Acc<u64> first, second;
    first.clear(), second.clear();
    first.mac(x.a, y.a), first.mac(mulr(x.b, y.b), 7);
    second.mac(x.a, y.b), second.mac(x.b, y.a);
    return K<u64>{first.value(), second.value()};
}
template <>
VL_FN K<u64> kmul_add<u64>(K<u64> x, K<u64> y, K<u64> z, K<u64> w) {
    KAcc<u64> sum;
    sum.clear();
    sum.mac(x, y), sum.mac(z, w);
    return kvalue(sum);
}
template <>
struct KScale<u64> {
    K<u64> r;
    u64 b7;
    VL_FN explicit KScale(K<u64> x) : r(x), b7(mul7(x.b)) {}
    VL_FN K<u64> times_plus(K<u64> x, K<u64> c) const {
        Acc<u64> first, second;
        first.clear(c.a), second.clear(c.b);
        first.mac(x.a, r.a), first.mac(x.b, b7);
        second.mac(x.a, r.b), second.mac(x.b, r.a);
        return K<u64>{first.value(), second.value()};
    }
};
#else
VL_FN K<u64> kvalue(const KAcc<u64>& s) {  // one lane keeps cross at 0
    u64 low = gadd(s.low.value(), s.f0.value());
    return K<u64>{gadd(canon(mul7(s.high.value())), low), s.f1.value()};
}
#endif

template <>
struct KSum<u64> {
    enum { TERMS = 1 << 30 };
    KAcc<u64> sum;
    VL_FN void clear() { sum.clear(); }
    VL_FN void mac(K<u64> x, K<u64> y) { sum.mac(x, y); }
    VL_FN K<u64> value() const { return kvalue(sum); }
    VL_FN K<u64> lanes() const { return kvalue(sum); }
};
