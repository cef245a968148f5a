// Products of words with small integers in lanes, for either width of vectors: a word's halves times an integer below 2^17 stay below
// 2^49, so sums of 2^9 of them do not carry. one_lane.h says what each computes; included by wide.h.
#pragma once

// sums and products that stay below 2^36, factors below 2^32
VL_FN VL_WIDE lanes_of(Limb x) { return VL_WIDE{(decltype(VL_WIDE::v))x}; }
VL_FN VL_WIDE plus_small(VL_WIDE x, VL_WIDE y) { return lanes_of(limb(x) + limb(y)); }
VL_FN VL_WIDE minus_small(VL_WIDE x, VL_WIDE y) { return lanes_of(limb(x) - limb(y)); }
VL_FN VL_WIDE times_small(VL_WIDE x, VL_WIDE y) { return lanes_of(times(limb(x), limb(y))); }

VL_FN u64 add_lanes(Limb x) {
    u64 sum = 0;
    for (int i = 0; i < Lanes<VL_WIDE>::count; ++i) sum += x[i];
    return sum;
}
VL_FN K<u64> add_lanes(K<VL_WIDE> x) {
    u64 a[Lanes<VL_WIDE>::count], b[Lanes<VL_WIDE>::count];
    kstore(a, b, 0, x);
    K<u64> sum{0, 0};
    for (int i = 0; i < Lanes<VL_WIDE>::count; ++i) sum = kadd(sum, K<u64>{a[i], b[i]});
    return sum;
}

VL_FN Limb times_plus(Limb sum, Limb x, Limb y) {  // factors below 2^32 with a product below 2^52
#ifdef __AVX512IFMA__
    return (Limb)_mm512_madd52lo_epu64((__m512i)sum, (__m512i)x, (__m512i)y);
#else
    return sum + times(x, y);
#endif
}
VL_FN void mac_short(Halves& sum, Halves w, VL_WIDE x) {
    sum.low = times_plus(sum.low, w.low, limb(x)), sum.high = times_plus(sum.high, w.high, limb(x));
}

template <>
struct SmallTerm<VL_WIDE> {
    Halves a, b;
    VL_FN explicit SmallTerm(K<u64> w) : a(halves(spread<VL_WIDE>(w.a))), b(halves(spread<VL_WIDE>(w.b))) {}
};
template <>
struct SmallLinear<VL_WIDE> {
    enum { TOGETHER = Lanes<VL_WIDE>::count / 2 };  // as many as there are registers for
    Halves a, b;
    VL_FN SmallLinear() {}
    VL_FN explicit SmallLinear(K<u64> c) : a(halves(spread<VL_WIDE>(c.a))), b(halves(spread<VL_WIDE>(c.b))) {}
    VL_FN void mac(const SmallTerm<VL_WIDE>& t, VL_WIDE x) { mac_short(a, t.a, x), mac_short(b, t.b, x); }
    VL_FN void add(VL_WIDE x) { a.low += limb(x); }
    VL_FN K<VL_WIDE> value() const { return K<VL_WIDE>{reduce_halves(a), reduce_halves(b)}; }
};
template <>
struct ShortSum<VL_WIDE> {
    enum { TOGETHER = Lanes<VL_WIDE>::count / 2 };
    Halves a, b;
    VL_FN void clear() { a = b = Halves{}; }
    VL_FN void mac(K<VL_WIDE> w, VL_WIDE x) { mac_short(a, halves(w.a), x), mac_short(b, halves(w.b), x); }
    VL_FN static u64 value(Halves s) { return reduce_long(((unsigned __int128)add_lanes(s.high) << 32) + add_lanes(s.low)); }
    VL_FN K<u64> value() const { return K<u64>{value(a), value(b)}; }
};
