// Products in K of one lane on a CPU: sums of products of 128 bits and a carry, reduced once; included by launch.h.
#pragma once

struct Sum {  // h·2^128 + s
    unsigned __int128 s = 0;
    u64 h = 0;
    VL_FN void mac(u64 a, u64 b) { h += __builtin_add_overflow(s, (unsigned __int128)a * b, &s); }
    VL_FN u64 any() const {  // few terms, h < 2^32; 2^96 = -1
        const u64 lo = (u64)s, hi = (u64)(s >> 64), top = hi >> 32 | h << 32, low = hi & GL_EPS;
        u64 t = lo - top;
        t -= eps_if(lo < top);
        const u64 u = (low << 32) - low, r = t + u;
        return r + eps_if(r < u);
    }
};

VL_FN K<u64> kmul_add(K<u64> x, K<u64> y, K<u64> z, K<u64> w) {
    Sum real, seven, cross;
    seven.mac(x.b, y.b), seven.mac(z.b, w.b);
    real.mac(x.a, y.a), real.mac(z.a, w.a), real.mac(seven.any(), 7);
    cross.mac(x.a, y.b), cross.mac(x.b, y.a), cross.mac(z.a, w.b), cross.mac(z.b, w.a);
    return K<u64>{canon(real.any()), canon(cross.any())};
}
VL_FN K<u64> kmul(K<u64> x, K<u64> y) {
    Sum real, cross;
    real.mac(x.a, y.a), real.mac(mulr(x.b, y.b), 7);
    cross.mac(x.a, y.b), cross.mac(x.b, y.a);
    return K<u64>{canon(real.any()), canon(cross.any())};
}

template <>
struct KScale<u64> {
    u64 a, b, b7;
    VL_FN explicit KScale(K<u64> r) : a(r.a), b(r.b), b7(mul7(r.b)) {}
    VL_FN K<u64> times_plus(K<u64> x, K<u64> c) const {
        Sum real{c.a, 0}, cross{c.b, 0};
        real.mac(x.a, a), real.mac(x.b, b7);
        cross.mac(x.a, b), cross.mac(x.b, a);
        return K<u64>{canon(real.any()), canon(cross.any())};
    }
};

// ---- products with small integers, in one lane or more (ifma.h, limbs.h) ------------------------------------------------------------

template <class V>
struct SmallTerm;  // a scalar w of K
template <class V>
struct SmallLinear;  // c + Σ w·x for scalars of K and x below 2^17, up to 2^9 terms
template <class V>
struct SmallSum;  // Σ w·x for w of K in lanes and x below 2^36, up to 2^9 terms in all lanes
template <class V>
struct ShortSum;  // the same for x below 2^17

VL_FN u64 plus_small(u64 x, u64 y) { return x + y; }
VL_FN u64 minus_small(u64 x, u64 y) { return x - y; }
VL_FN u64 times_small(u64 x, u64 y) { return x * y; }

VL_FN u64 reduce_long(unsigned __int128 x) { return canon(reduce_wide((u64)x, (u64)(x >> 64))); }

template <>
struct SmallTerm<u64> {
    K<u64> w;
    VL_FN explicit SmallTerm(K<u64> x) : w(x) {}
};
template <>
struct SmallLinear<u64> {
    enum { TOGETHER = 1 };
    unsigned __int128 a, b;
    VL_FN SmallLinear() {}
    VL_FN explicit SmallLinear(K<u64> c) : a(c.a), b(c.b) {}
    VL_FN void mac(const SmallTerm<u64>& t, u64 x) { a += (unsigned __int128)t.w.a * x, b += (unsigned __int128)t.w.b * x; }
    VL_FN void add(u64 x) { a += x; }  // below 2^40
    VL_FN K<u64> value() const { return K<u64>{reduce_long(a), reduce_long(b)}; }
};
template <>
struct SmallSum<u64> {
    enum { TOGETHER = 1 };
    unsigned __int128 a, b;
    VL_FN void clear() { a = b = 0; }
    VL_FN void mac(K<u64> w, u64 x) { a += (unsigned __int128)w.a * x, b += (unsigned __int128)w.b * x; }
    VL_FN K<u64> value() const { return K<u64>{reduce_long(a), reduce_long(b)}; }
};
template <>
struct ShortSum<u64> : SmallSum<u64> {};
