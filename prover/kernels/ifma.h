// Products of eight lanes with the 52-bit multiply-add instructions (AVX-512 IFMA); included by wide.h.
//
// A product is kept as limbs h·2^104 + m·2^52 + l. The instructions ignore bits above 52 of their operands, so a word is itself
// and its upper 12 bits; seven of them add one product to the limbs without a carry, and up to 2^7 products of words fit
// before a limb reaches 2^62. What takes time otherwise, carries and reductions, is done once a sum.
#pragma once

struct Limbs {
    __m512i l, m, h;
    VL_FN void clear() { l = m = h = _mm512_setzero_si512(); }
};
struct Factor {
    __m512i low, top;
};
VL_FN Factor factor(V8 x) { return Factor{x.v, _mm512_srli_epi64(x.v, 52)}; }

VL_FN void mac(Limbs& s, Factor x, Factor y) {
    s.l = _mm512_madd52lo_epu64(s.l, x.low, y.low);
    s.m = _mm512_madd52hi_epu64(s.m, x.low, y.low);
    s.h = _mm512_madd52hi_epu64(s.h, x.top, y.low);
    s.m = _mm512_madd52lo_epu64(s.m, x.top, y.low);
    s.h = _mm512_madd52hi_epu64(s.h, x.low, y.top);
    s.m = _mm512_madd52lo_epu64(s.m, x.low, y.top);
    s.h = _mm512_madd52lo_epu64(s.h, x.top, y.top);
}

VL_FN __m512i plus7(__m512i c, __m512i x) { return _mm512_add_epi64(c, _mm512_sub_epi64(_mm512_slli_epi64(x, 3), x)); }

// to any; l < 2^64, m < 2^64, h < 2^54. 2^64 = 2^32 - 1, 2^96 = -1, 2^104 = -2^8.
VL_FN V8 reduce_limbs(Limbs s) {
    const __m512i eps = _mm512_set1_epi64(GL_EPS);
    __m512i u = _mm512_slli_epi64(s.m, 52), lo = _mm512_add_epi64(s.l, u), hi = _mm512_srli_epi64(s.m, 12);
    hi = _mm512_mask_add_epi64(hi, _mm512_cmplt_epu64_mask(lo, u), hi, _mm512_set1_epi64(1));
    __m512i v = _mm512_add_epi64(_mm512_slli_epi64(s.h, 8), _mm512_srli_epi64(hi, 32));
    __m512i t = _mm512_sub_epi64(lo, v);
    t = _mm512_mask_sub_epi64(t, _mm512_cmplt_epu64_mask(lo, v), t, eps);
    __m512i w = _mm512_mul_epu32(hi, eps), r = _mm512_add_epi64(t, w);
    return V8{_mm512_mask_add_epi64(r, _mm512_cmplt_epu64_mask(r, w), r, eps)};
}

VL_FN void cross_mac(Limbs& real, Limbs& seven, Limbs& cross, K<V8> x, K<V8> y) {
    Factor xa = factor(x.a), xb = factor(x.b), ya = factor(y.a), yb = factor(y.b);
    mac(real, xa, ya);
    mac(seven, xb, yb);
    mac(cross, xa, yb);
    mac(cross, xb, ya);
}

VL_FN K<V8> cross_value(Limbs real, Limbs seven, Limbs cross) {
    Limbs sum{plus7(real.l, seven.l), plus7(real.m, seven.m), plus7(real.h, seven.h)};
    return K<V8>{canon(reduce_limbs(sum)), canon(reduce_limbs(cross))};
}

VL_FN K<V8> kmul(K<V8> x, K<V8> y) {
    Limbs real, seven, cross;
    real.clear(), seven.clear(), cross.clear();
    cross_mac(real, seven, cross, x, y);
    return cross_value(real, seven, cross);
}

VL_FN K<V8> kmul_add(K<V8> x, K<V8> y, K<V8> z, K<V8> w) {
    Limbs real, seven, cross;
    real.clear(), seven.clear(), cross.clear();
    cross_mac(real, seven, cross, x, y);
    cross_mac(real, seven, cross, z, w);
    return cross_value(real, seven, cross);
}

VL_FN Limbs limbs(V8 x) {
    return Limbs{_mm512_and_si512(x.v, _mm512_set1_epi64((1LL << 52) - 1)), _mm512_srli_epi64(x.v, 52), _mm512_setzero_si512()};
}

template <>
struct KLinear<V8> {
    Limbs real, cross;
    VL_FN explicit KLinear(K<u64> c) : real(limbs(spread<V8>(c.a))), cross(limbs(spread<V8>(c.b))) {}
    VL_FN void mac(K<u64> x, V8 f) {
        const Factor y = factor(f);
        ::mac(real, y, factor(spread<V8>(x.a)));
        ::mac(cross, y, factor(spread<V8>(x.b)));
    }
    VL_FN K<V8> value() const { return K<V8>{canon(reduce_limbs(real)), canon(reduce_limbs(cross))}; }
};

template <>
struct KScale<V8> {
    Factor a, b, b7;
    VL_FN explicit KScale(K<u64> x) : a(factor(spread<V8>(x.a))), b(factor(spread<V8>(x.b))), b7(factor(spread<V8>(mul7(x.b)))) {}
    VL_FN K<V8> times_plus(K<V8> x, K<V8> c) const {
        Limbs real = limbs(c.a), cross = limbs(c.b);
        Factor xa = factor(x.a), xb = factor(x.b);
        mac(real, xa, a);
        mac(cross, xa, b);
        mac(real, xb, b7);
        mac(cross, xb, a);
        return K<V8>{canon(reduce_limbs(real)), canon(reduce_limbs(cross))};
    }
};

template <>
struct KSum<V8> {  // Karatsuba, for the differences are taken once
    enum { TERMS = 1 << 7 };
    Limbs low, high, cross;
    VL_FN void clear() { low.clear(), high.clear(), cross.clear(); }
    VL_FN void mac(K<V8> x, K<V8> y) {
        ::mac(low, factor(x.a), factor(y.a));
        ::mac(high, factor(x.b), factor(y.b));
        ::mac(cross, factor(addr(x.a, x.b)), factor(addr(y.a, y.b)));
    }
    VL_FN K<u64> value() const {
        KAcc<V8> s;
        s.clear();
        s.low.add(reduce_limbs(low)), s.high.add(reduce_limbs(high)), s.cross.add(reduce_limbs(cross));
        KAcc<u64> sum;
        sum.clear();
        drain(s, sum);
        return kvalue(sum);
    }
    VL_FN K<V8> lanes() const {
        V8 real = canon(reduce_limbs(low)), seven = canon(reduce_limbs(high));
        return K<V8>{gadd(canon(mul7(seven)), real), gsub(canon(subr(reduce_limbs(cross), real)), seven)};
    }
};

// Products with small integers, which have no upper bits: three instructions instead of seven, and no upper limb.
VL_FN void mac_small(Limbs& s, Factor x, V8 small) {
    s.l = _mm512_madd52lo_epu64(s.l, x.low, small.v);
    s.m = _mm512_madd52hi_epu64(s.m, x.low, small.v);
    s.m = _mm512_madd52lo_epu64(s.m, x.top, small.v);
}
template <>
struct SmallSum<V8> {
    Limbs a, b;
    VL_FN void clear() { a.clear(), b.clear(); }
    VL_FN void mac(K<V8> w, V8 x) { mac_small(a, factor(w.a), x), mac_small(b, factor(w.b), x); }
    VL_FN static u64 value(Limbs s) { return reduce_long(((unsigned __int128)add_lanes((Limb)s.m) << 52) + add_lanes((Limb)s.l)); }
    VL_FN K<u64> value() const { return K<u64>{value(a), value(b)}; }
};
