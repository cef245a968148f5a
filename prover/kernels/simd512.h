// Eight lanes of Goldilocks in an AVX-512 register; same conventions as field.h.
//
// A product takes four 32x32-bit multiplications (no 64-bit high product exists in this instruction set). Sums of products
// are gathered as two 64-bit sums of the low and high halves of reduced values, exact for 2^32 terms.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512DQ__) && !defined(VL_CUDA)
#define VL_WIDE V8
#define VL_512 1
#include <immintrin.h>

struct V8 {
    __m512i v;
};

template <>
struct Lanes<V8> {
    enum { count = 8 };
};

template <>
VL_FN V8 load<V8>(const u64* at) {
    return V8{_mm512_loadu_si512(at)};
}
VL_FN void store(u64* at, V8 x) { _mm512_storeu_si512(at, x.v); }
VL_FN void store_past(u64* at, V8 x) { _mm512_stream_si512((__m512i*)at, x.v); }
template <>
VL_FN V8 spread<V8>(u64 x) {
    return V8{_mm512_set1_epi64((i64)x)};
}
#define VL_LOAD_INTS(T, LOADED)         \
    template <>                         \
    VL_FN V8 load_int<V8>(const T* at) { \
        return V8{LOADED};              \
    }
VL_LOAD_INTS(i8, _mm512_cvtepi8_epi64(_mm_loadl_epi64((const __m128i*)at)))
VL_LOAD_INTS(u8, _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i*)at)))
VL_LOAD_INTS(i16, _mm512_cvtepi16_epi64(_mm_loadu_si128((const __m128i*)at)))
VL_LOAD_INTS(u16, _mm512_cvtepu16_epi64(_mm_loadu_si128((const __m128i*)at)))
VL_LOAD_INTS(i32, _mm512_cvtepi32_epi64(_mm256_loadu_si256((const __m256i*)at)))
VL_LOAD_INTS(u32, _mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i*)at)))
VL_LOAD_INTS(i64, _mm512_loadu_si512(at))
VL_FN V8 canonical_int(V8 x) { return V8{_mm512_mask_add_epi64(x.v, _mm512_movepi64_mask(x.v), x.v, _mm512_set1_epi64((i64)GL_P))}; }

VL_FN V8 canon(V8 x) {  // x - p wraps to a large number exactly when x < p
    return V8{_mm512_min_epu64(x.v, _mm512_sub_epi64(x.v, _mm512_set1_epi64((i64)GL_P)))};
}
VL_FN V8 addr(V8 a, V8 b) {
    __m512i s = _mm512_add_epi64(a.v, b.v);
    return V8{_mm512_mask_add_epi64(s, _mm512_cmplt_epu64_mask(s, b.v), s, _mm512_set1_epi64(GL_EPS))};
}
VL_FN V8 subr(V8 a, V8 b) {
    __m512i d = _mm512_sub_epi64(a.v, b.v);
    return V8{_mm512_mask_sub_epi64(d, _mm512_cmplt_epu64_mask(a.v, b.v), d, _mm512_set1_epi64(GL_EPS))};
}

VL_FN __m512i high_half(__m512i x) {  // moves the high 32 bits down; runs beside the shifter
    return _mm512_castps_si512(_mm512_movehdup_ps(_mm512_castsi512_ps(x)));
}

VL_FN V8 reduce_wide(__m512i lo, __m512i hi) {
    const __m512i eps = _mm512_set1_epi64(GL_EPS);
    __m512i top = _mm512_srli_epi64(hi, 32);
    __m512i t = _mm512_sub_epi64(lo, top);
    t = _mm512_mask_sub_epi64(t, _mm512_cmplt_epu64_mask(lo, top), t, eps);
    __m512i u = _mm512_mul_epu32(hi, eps);
    __m512i r = _mm512_add_epi64(t, u);
    return V8{_mm512_mask_add_epi64(r, _mm512_cmplt_epu64_mask(r, u), r, eps)};
}

VL_FN V8 mulr(V8 a, V8 b) {
    const __m512i eps = _mm512_set1_epi64(GL_EPS);
    __m512i a1 = high_half(a.v), b1 = high_half(b.v);
    __m512i ll = _mm512_mul_epu32(a.v, b.v), lh = _mm512_mul_epu32(a.v, b1);
    __m512i hl = _mm512_mul_epu32(a1, b.v), hh = _mm512_mul_epu32(a1, b1);
    __m512i mid = _mm512_add_epi64(hl, _mm512_srli_epi64(ll, 32));
    __m512i low = _mm512_add_epi64(lh, _mm512_and_si512(mid, eps));
    __m512i hi = _mm512_add_epi64(_mm512_add_epi64(hh, _mm512_srli_epi64(mid, 32)), _mm512_srli_epi64(low, 32));
    __m512i lo = _mm512_mask_mov_epi32(ll, 0xAAAA, _mm512_castps_si512(_mm512_moveldup_ps(_mm512_castsi512_ps(low))));
    return reduce_wide(lo, hi);
}

VL_FN V8 mul7(V8 a) {  // 8a - a as two words, the upper one below 7
    __m512i eight = _mm512_slli_epi64(a.v, 3);
    __m512i lo = _mm512_sub_epi64(eight, a.v), hi = _mm512_srli_epi64(a.v, 61);
    hi = _mm512_mask_sub_epi64(hi, _mm512_cmplt_epu64_mask(eight, a.v), hi, _mm512_set1_epi64(1));
    __m512i u = _mm512_sub_epi64(_mm512_slli_epi64(hi, 32), hi);
    __m512i r = _mm512_add_epi64(lo, u);
    return V8{_mm512_mask_add_epi64(r, _mm512_cmplt_epu64_mask(r, u), r, _mm512_set1_epi64(GL_EPS))};
}

template <int S>
VL_FN V8 shiftr(V8 a) {
    return reduce_wide(_mm512_slli_epi64(a.v, S), _mm512_srli_epi64(a.v, 64 - S));
}

template <>
struct Acc<V8> {
    __m512i lo, hi;
    VL_FN void clear() { lo = hi = _mm512_setzero_si512(); }
    VL_FN void add(V8 x) {
        lo = _mm512_add_epi64(lo, _mm512_and_si512(x.v, _mm512_set1_epi64(GL_EPS)));
        hi = _mm512_add_epi64(hi, _mm512_srli_epi64(x.v, 32));
    }
    VL_FN void mac(V8 a, V8 b) { add(mulr(a, b)); }
    VL_FN void drain(Acc<u64>& into) const {
        alignas(64) u64 words[16];
        _mm512_store_si512(words, lo);
        _mm512_store_si512(words + 8, hi);
        for (int i = 0; i < 8; ++i) {
            into.mac(words[i], 1);
            into.mac(words[8 + i], 1ULL << 32);
        }
    }
    VL_FN V8 value() const {  // lanes stay apart: hi·2^32 + lo
        return canon(addr(reduce_wide(_mm512_slli_epi64(hi, 32), _mm512_srli_epi64(hi, 32)), canon(V8{lo})));
    }
};

#endif
