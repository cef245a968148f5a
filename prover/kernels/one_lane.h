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
struct Small;  // c + r·x + s·y + z for scalars c, r, s of K, x and y below 2^18, z below 2^40
template <class V>
struct SmallSum;  // Σ w·x over K, up to 2^9 terms in all lanes; x below 2^32, in mac_long below 2^36

VL_FN u64 plus_small(u64 x, u64 y) { return x + y; }
VL_FN u64 minus_small(u64 x, u64 y) { return x - y; }
VL_FN u64 times_small(u64 x, u64 y) { return x * y; }

template <>
struct Small<u64> {
    K<u64> c, r, s;
    VL_FN Small(K<u64> constant, K<u64> x, K<u64> y) : c(constant), r(x), s(y) {}
    VL_FN static u64 value(u64 c, u64 r, u64 x, u64 s, u64 y) {
        const unsigned __int128 sum = (unsigned __int128)r * x + (unsigned __int128)s * y + c;
        return canon(reduce_wide((u64)sum, (u64)(sum >> 64)));
    }
    VL_FN K<u64> at(u64 x, u64 y, u64 z) const { return K<u64>{gadd(value(c.a, r.a, x, s.a, y), z), value(c.b, r.b, x, s.b, y)}; }
};

template <>
struct SmallSum<u64> {
    unsigned __int128 a, b;
    VL_FN void clear() { a = b = 0; }
    VL_FN void mac(K<u64> w, u64 x) { a += (unsigned __int128)w.a * x, b += (unsigned __int128)w.b * x; }
    VL_FN void mac_long(K<u64> w, u64 x) { mac(w, x); }
    VL_FN K<u64> value() const {
        return K<u64>{canon(reduce_wide((u64)a, (u64)(a >> 64))), canon(reduce_wide((u64)b, (u64)(b >> 64)))};
    }
};
