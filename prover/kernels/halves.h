// Words in lanes as two halves, low + 2^32·high, each a signed number with room: sums do not carry; included by wide.h.
//
// 2^64 = 2^32 - 1 and 2^96 = -1, so a product of two words is a pair of halves of 33 bits, and powers of two only shift and add.
#pragma once

typedef u64 Limb __attribute__((vector_size(sizeof(VL_WIDE))));

VL_FN Limb limb(VL_WIDE x) { return (Limb)x.v; }
VL_FN Limb times(Limb x, Limb y) {  // of the lower halves
#ifdef VL_512
    return (Limb)_mm512_mul_epu32((__m512i)x, (__m512i)y);
#else
    return (Limb)_mm256_mul_epu32((__m256i)x, (__m256i)y);
#endif
}

struct Halves {
    Limb low, high;
    VL_FN void operator+=(Halves x) { low += x.low, high += x.high; }
};
VL_FN Halves operator+(Halves x, Halves y) { return Halves{x.low + y.low, x.high + y.high}; }
VL_FN Halves operator-(Halves x, Halves y) { return Halves{x.low - y.low, x.high - y.high}; }
VL_FN Halves halves(VL_WIDE x) { return Halves{limb(x) & GL_EPS, limb(x) >> 32}; }

// x·2^24, x·2^48, x·2^72
VL_FN Halves times24(Halves x) { return Halves{x.low << 24, x.high << 24}; }
VL_FN Halves times48(Halves x) { return Halves{-(x.high << 16), (x.low + x.high) << 16}; }
VL_FN Halves times72(Halves x) { return Halves{-((x.low + x.high) << 8), x.low << 8}; }

VL_FN Halves product(VL_WIDE a, VL_WIDE b) {
    const Limb x = limb(a), y = limb(b), x1 = x >> 32, y1 = y >> 32;
    const Limb ll = times(x, y), mid = times(x1, y) + (ll >> 32), low = times(x, y1) + (mid & GL_EPS);
    const Limb top = times(x1, y1) + (mid >> 32) + (low >> 32), top0 = top & GL_EPS;
    return Halves{(ll & GL_EPS) - top0 - (top >> 32), (low & GL_EPS) + top0};
}

// to canonical; 0 <= low, high < 2^63, so t < p, and t + u is over by p where u > p - 1 - t
VL_FN VL_WIDE reduce_halves(Halves x) {
    const Limb top = x.high >> 32, t = x.low + (top << 32) - top, u = x.high << 32, sum = t + u;
#ifdef VL_512
    const __mmask8 over = _mm512_cmpgt_epu64_mask((__m512i)u, (__m512i)(GL_P - 1 - t));
    return VL_WIDE{_mm512_mask_add_epi64((__m512i)sum, over, (__m512i)sum, _mm512_set1_epi64(GL_EPS))};
#else
    const __m256i over = _mm256_cmpgt_epi64(flip((__m256i)u), (__m256i)(GL_P - 1 - (1ULL << 63) - t));
    return VL_WIDE{_mm256_add_epi64((__m256i)sum, _mm256_srli_epi64(over, 32))};
#endif
}
VL_FN VL_WIDE reduce_signed(Halves x) {  // of up to 2^59; what is added is a multiple of p
    return reduce_halves(x + Halves{Limb{} + ((1ULL << 60) + (1 << 28)), Limb{} + ((1ULL << 60) - (1 << 29))});
}
