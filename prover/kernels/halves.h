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

VL_FN Limb upper(Limb x) {  // the upper half as a lower one, for `times`; runs beside the shifter
#ifdef VL_512
    return (Limb)high_half((__m512i)x);
#else
    return (Limb)_mm256_castps_si256(_mm256_movehdup_ps(_mm256_castsi256_ps((__m256i)x)));
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
    const Limb x = limb(a), y = limb(b), x1 = upper(x), y1 = upper(y);
    const Limb ll = times(x, y), mid = times(x1, y) + (ll >> 32), low = times(x, y1) + (mid & GL_EPS);
    const Limb top = times(x1, y1) + (mid >> 32) + (low >> 32), top0 = top & GL_EPS;
    return Halves{(ll & GL_EPS) - top0 - (top >> 32), (low & GL_EPS) + top0};
}

// To canonical, where low is 2^32 - 1 too large; 0 <= low, high and low + high < 2^64 - 2^32, so t = low + high·2^-32·(2^32 - 1) does not
// carry. t + u of that t is p less than it should be kept where it carries, and 2^32 - 1 more where it does not.
VL_FN VL_WIDE reduce_raised(Halves x) {
    const Limb u = x.high << 32, sum = x.low + times(upper(x.high), Limb{} + GL_EPS) + u;
#ifdef VL_512
    const __mmask8 kept = _mm512_cmpge_epu64_mask((__m512i)sum, (__m512i)u);
    return VL_WIDE{_mm512_mask_sub_epi64((__m512i)sum, kept, (__m512i)sum, _mm512_set1_epi64(GL_EPS))};
#else  // u has no low half, so upper halves decide; those below are equal
    const __m256i kept = _mm256_cmpeq_epi32(_mm256_max_epu32((__m256i)sum, (__m256i)u), (__m256i)sum);
    return VL_WIDE{_mm256_sub_epi64((__m256i)sum, _mm256_srli_epi64(kept, 32))};
#endif
}
VL_FN VL_WIDE reduce_halves(Halves x) { return reduce_raised(Halves{x.low + GL_EPS, x.high}); }
VL_FN VL_WIDE reduce_signed(Halves x) {  // of up to 2^59; what is added is a multiple of p
    return reduce_raised(x + Halves{Limb{} + ((1ULL << 60) + (1 << 28) + GL_EPS), Limb{} + ((1ULL << 60) - (1 << 29))});
}
