// Products of lanes in K without 52-bit multiply-add (AVX2, older AVX-512); included by wide.h.
//
// One factor is cut into limbs of 22, 22 and 20 bits, the other into halves, so the products have 54 bits and sums of many do not
// carry; what takes time otherwise, carries and reductions, is done once a sum. By a constant c it is fewer products:
// x·c = Σ x_i·(2^(22i)·c mod p) = low + 2^32·high, where the constants' halves are known before.
#pragma once

struct Cut {
    Limb part[3];
    VL_FN explicit Cut(VL_WIDE x) : part{limb(x) & 0x3FFFFF, limb(x) >> 22 & 0x3FFFFF, limb(x) >> 44} {}
    VL_FN void times7() {
        for (Limb& x : part) x = (x << 3) - x;
    }
};
struct Columns {  // Σ_i 2^(22i)·at[i], and in the same way what lies 32 bits higher
    Limb at[3], high[3];
    VL_FN void clear() {
        for (int i = 0; i < 3; ++i) at[i] = high[i] = Limb{};
    }
    VL_FN void mac(const Cut& x, Halves y) {
        for (int i = 0; i < 3; ++i) at[i] += times(x.part[i], y.low), high[i] += times(x.part[i], y.high);
    }
    // to canonical; columns of up to 2^62. 2^64 = 2^32 - 1, 2^96 = -1; what is added to stay positive is a multiple of p.
    VL_FN VL_WIDE value() const {
        const Limb ten = at[1] >> 10, twenty = at[2] >> 20, high_ten = high[1] >> 10, high_twenty = high[2] >> 20;
        const Limb shifted = (high[2] & 0xFFFFF) << 12, wraps = twenty + high_ten + shifted;
        Halves sum{at[0] + ((at[1] & 0x3FF) << 22), high[0] + ten + ((at[2] & 0xFFFFF) << 12) + ((high[1] & 0x3FF) << 22)};
        sum += Halves{(1ULL << 60) + 1 + GL_EPS - wraps - high_twenty, GL_EPS - (1 << 28) + wraps};
        return reduce_raised(sum);
    }
};

VL_FN void cross_mac(Columns& real, Columns& cross, K<VL_WIDE> x, K<VL_WIDE> y) {
    const Cut xa(x.a);
    Cut xb(x.b);
    const Halves ya{limb(y.a), upper(limb(y.a))}, yb{limb(y.b), upper(limb(y.b))};
    real.mac(xa, ya);
    cross.mac(xa, yb);
    cross.mac(xb, ya);
    xb.times7();
    real.mac(xb, yb);
}

VL_FN K<VL_WIDE> kmul(K<VL_WIDE> x, K<VL_WIDE> y) {
    Columns real, cross;
    real.clear(), cross.clear();
    cross_mac(real, cross, x, y);
    return K<VL_WIDE>{real.value(), cross.value()};
}

VL_FN K<VL_WIDE> kmul_add(K<VL_WIDE> x, K<VL_WIDE> y, K<VL_WIDE> z, K<VL_WIDE> w) {
    Columns real, cross;
    real.clear(), cross.clear();
    cross_mac(real, cross, x, y);
    cross_mac(real, cross, z, w);
    return K<VL_WIDE>{real.value(), cross.value()};
}

template <>
struct KLinear<VL_WIDE> {
    Columns real, cross;
    VL_FN explicit KLinear(K<u64> c) {
        real.clear(), cross.clear();
        real.at[0] = halves(spread<VL_WIDE>(c.a)).low, real.high[0] = halves(spread<VL_WIDE>(c.a)).high;
        cross.at[0] = halves(spread<VL_WIDE>(c.b)).low, cross.high[0] = halves(spread<VL_WIDE>(c.b)).high;
    }
    VL_FN void mac(K<u64> x, VL_WIDE f) {
        const Cut y(f);
        real.mac(y, halves(spread<VL_WIDE>(x.a)));
        cross.mac(y, halves(spread<VL_WIDE>(x.b)));
    }
    VL_FN K<VL_WIDE> value() const { return K<VL_WIDE>{real.value(), cross.value()}; }
};

struct Constant {
    Halves power[3];  // 2^(22i)·c
    VL_FN explicit Constant(u64 c) {
        for (int i = 0; i < 3; ++i, c = gmul(c, (u64)1 << 22)) power[i] = halves(spread<VL_WIDE>(c));
    }
    VL_FN void mac(Halves& sum, const Limb* x) const {
        for (int i = 0; i < 3; ++i) sum += Halves{times(x[i], power[i].low), times(x[i], power[i].high)};
    }
};

template <>
struct KScale<VL_WIDE> {  // r·x = s + 7·r.b·x.b - r.a·x.b, s + r.b·x.a - r.a·x.a, where s = r.a·(x.a + x.b)
    Constant both, a, b;
    VL_FN explicit KScale(K<u64> r) : both(r.a), a(gsub(r.b, r.a)), b(gsub(gmul<u64>(r.b, 7), r.a)) {}
    VL_FN K<VL_WIDE> times_plus(K<VL_WIDE> x, K<VL_WIDE> c) const {
        const Cut xa(x.a), xb(x.b);
        const Limb sums[3] = {xa.part[0] + xb.part[0], xa.part[1] + xb.part[1], xa.part[2] + xb.part[2]};
        Halves shared{}, real = halves(c.a), cross = halves(c.b);
        both.mac(shared, sums);
        b.mac(real, xb.part);
        a.mac(cross, xa.part);
        real += shared, cross += shared;
        return K<VL_WIDE>{reduce_halves(real), reduce_halves(cross)};
    }
};

template <>
struct KSum<VL_WIDE> {
    enum { TERMS = 1 << 7 };
    Columns low, high, cross;
    VL_FN void clear() { low.clear(), high.clear(), cross.clear(); }
    VL_FN void mac(K<VL_WIDE> x, K<VL_WIDE> y) {
        const Cut xa(x.a), xb(x.b);
        const Halves ya{limb(y.a), upper(limb(y.a))}, yb{limb(y.b), upper(limb(y.b))};
        low.mac(xa, ya);
        high.mac(xb, yb);
        cross.mac(xa, yb);
        cross.mac(xb, ya);
    }
    VL_FN K<VL_WIDE> lanes() const { return K<VL_WIDE>{gadd(canon(mul7(high.value())), low.value()), cross.value()}; }
    VL_FN K<u64> value() const { return add_lanes(lanes()); }
};

template <>
struct SmallSum<VL_WIDE> {
    Columns a, b;
    VL_FN void clear() { a.clear(), b.clear(); }
    VL_FN void mac(K<VL_WIDE> w, VL_WIDE x) {
        const Halves y{limb(x), upper(limb(x))};
        a.mac(Cut(w.a), y), b.mac(Cut(w.b), y);
    }
    VL_FN K<u64> value() const { return add_lanes(K<VL_WIDE>{a.value(), b.value()}); }
};
