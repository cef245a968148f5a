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

VL_FN u64 addr(u64 a, u64 b) {
    u64 s = a + b;
    return s + eps_if(s < b);
}

VL_FN u64 subr(u64 a, u64 b) {
    u64 d = a - b;
    return d - eps_if(a < b);
}

VL_FN void mul_wide(u64 a, u64 b, u64& lo, u64& hi) {
#ifdef VL_CUDA
    lo = a * b;
    hi = __umul64hi(a, b);
#else
    unsigned __int128 t = (unsigned __int128)a * b;
    lo = (u64)t;
    hi = (u64)(t >> 64);
#endif
}

VL_FN u64 reduce_wide(u64 lo, u64 hi) {  // hi·2^64 + lo to any
    u64 top = hi >> 32, low = hi & GL_EPS;
    u64 t = lo - top;
    t -= eps_if(lo < top);
    u64 u = (low << 32) - low;
    u64 r = t + u;
    return r + eps_if(r < u);
}

VL_FN u64 mulr(u64 a, u64 b) {
    u64 lo, hi;
    mul_wide(a, b, lo, hi);
    return reduce_wide(lo, hi);
}

VL_FN u64 mul7(u64 a) { return mulr(a, 7); }

template <int S>
VL_FN u64 shiftr(u64 a) {  // a·2^S, 0 < S < 64
    return reduce_wide(a << S, a >> (64 - S));
}

// ---- canonical arithmetic over any lane type --------------------------------------------------------------------

template <class V>
VL_FN V gadd(V a, V b) {
    return canon(addr(a, b));
}
template <class V>
VL_FN V gsub(V a, V b) {
    return canon(subr(a, b));
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

template <>
struct Acc<u64> {
#ifdef VL_CUDA
    typedef u32 Top;  // a thread adds up few, and registers are scarce
#else
    typedef u64 Top;
#endif
    u64 l, m;
    Top h;  // h·2^128 + m·2^64 + l
    VL_FN void clear() { l = m = h = 0; }
    VL_FN void mac(u64 a, u64 b) {
        u64 lo, hi;
        mul_wide(a, b, lo, hi);
#ifdef VL_CUDA
        l += lo;
        u64 c = l < lo;  // the low carry goes in first, or it is lost when m + hi is 2^64 - 1
        m += c;
        h += m < c;
        m += hi;
        h += m < hi;
#else
        unsigned __int128 s = ((unsigned __int128)m << 64) | l, t = ((unsigned __int128)hi << 64) | lo;
        h += __builtin_add_overflow(s, t, &s);
        l = (u64)s;
        m = (u64)(s >> 64);
#endif
    }
    VL_FN u64 value() const {  // 2^128 = -2^32
        return canon(subr(reduce_wide(l, m), canon(reduce_wide((u64)h << 32, (u64)h >> 32))));
    }
};

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

template <>
VL_FN void KAcc<u64>::mac(K<u64> x, K<u64> y) {  // four multiplications: cheaper than Karatsuba's sums
    low.mac(x.a, y.a);
    high.mac(x.b, y.b);
    f1.mac(x.a, y.b);
    f1.mac(x.b, y.a);
}

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

VL_FN K<u64> kvalue(const KAcc<u64>& s) {  // one lane keeps cross at 0
    u64 low = gadd(s.low.value(), s.f0.value());
    return K<u64>{gadd(canon(mul7(s.high.value())), low), s.f1.value()};
}

template <>
struct KSum<u64> {
    enum { TERMS = 1 << 30 };
    KAcc<u64> sum;
    VL_FN void clear() { sum.clear(); }
    VL_FN void mac(K<u64> x, K<u64> y) { sum.mac(x, y); }
    VL_FN K<u64> value() const { return kvalue(sum); }
    VL_FN K<u64> lanes() const { return kvalue(sum); }
};
