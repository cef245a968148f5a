// Sums over K in lanes, for either width of vectors; products in K are those of ifma.h where the processor has its instructions, of limbs.h elsewhere.
#pragma once
#include "simd256.h"
#include "simd512.h"

#ifdef VL_WIDE
template <>
VL_FN void KAcc<VL_WIDE>::mac(K<VL_WIDE> x, K<VL_WIDE> y) {
    low.mac(x.a, y.a);
    high.mac(x.b, y.b);
    cross.mac(addr(x.a, x.b), addr(y.a, y.b));
}

VL_FN void drain(const KAcc<VL_WIDE>& s, KAcc<u64>& into) {
    Acc<u64> low, high, cross;
    low.clear(), high.clear(), cross.clear();
    s.low.drain(low), s.high.drain(high), s.cross.drain(cross);
    u64 a = low.value(), b = high.value();
    into.low.mac(a, 1);
    into.high.mac(b, 1);
    into.f1.mac(gsub(gsub(cross.value(), a), b), 1);
    s.f0.drain(into.f0);
    s.f1.drain(into.f1);
}

VL_FN K<VL_WIDE> kvalue(const KAcc<VL_WIDE>& s) {
    VL_WIDE a = s.low.value(), b = s.high.value();
    VL_WIDE real = gadd(gadd(canon(mul7(b)), a), s.f0.value());
    return K<VL_WIDE>{real, gadd(gsub(gsub(s.cross.value(), a), b), s.f1.value())};
}

#include "halves.h"
#include "small.h"
#if defined(__AVX512IFMA__) && defined(__AVX512F__)
#include "ifma.h"
#else
#include "limbs.h"
#endif
#endif
